//! Channel binding of type `tls-server-end-point`: what ties a SCRAM exchange to the TLS connection that it runs in.
//!
//! In goes the server's certificate as DER, out comes the hash that both sides must know. Follows RFC 5929 section 4:
//! the hash of the certificate's own signature, MD5 and SHA-1 replaced by SHA-256.

use sha2::{Digest, Sha256, Sha384, Sha512};

const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 0x06;

/// The binding of a connection whose server showed `certificate`; `None` where its signature names no hash, as with
/// Ed25519: then Postgres offers no binding either.
pub(super) fn server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    match signature_algorithm(certificate)? {
        // PKCS #1 (RFC 8017 appendix A.2.4): md5, sha1, sha256 with RSA; ECDSA (RFC 5758): sha1, sha256.
        [
            0x2a,
            0x86,
            0x48,
            0x86,
            0xf7,
            0x0d,
            0x01,
            0x01,
            0x04 | 0x05 | 0x0b,
        ]
        | [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01]
        | [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02] => {
            Some(Sha256::digest(certificate).to_vec())
        }
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0c]
        | [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03] => {
            Some(Sha384::digest(certificate).to_vec())
        }
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0d]
        | [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04] => {
            Some(Sha512::digest(certificate).to_vec())
        }
        _ => None,
    }
}

/// The object identifier in `Certificate.signatureAlgorithm` (RFC 5280 section 4.1).
fn signature_algorithm(certificate: &[u8]) -> Option<&[u8]> {
    let (body, _) = split_element(certificate, SEQUENCE)?;
    let (_to_be_signed, rest) = split_element(body, SEQUENCE)?;
    let (algorithm, _) = split_element(rest, SEQUENCE)?;
    let (identifier, _) = split_element(algorithm, OBJECT_IDENTIFIER)?;
    Some(identifier)
}

/// The content of the DER element at the front of `bytes`, and what follows the element.
fn split_element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match *first {
        short @ 0..=0x7f => (usize::from(short), rest),
        long => {
            let (digits, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
            let length = digits.iter().try_fold(0_usize, |length, digit| {
                length.checked_mul(256)?.checked_add(usize::from(*digit))
            })?;
            (length, rest)
        }
    };
    (*found == tag).then(|| rest.split_at_checked(length))?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(identifier: &[u8]) -> Vec<u8> {
        let element = |tag: u8, content: &[u8]| {
            let length = u16::try_from(content.len()).unwrap().to_be_bytes();
            [&[tag, 0x82], &length[..], content].concat()
        };
        let algorithm = element(SEQUENCE, &element(OBJECT_IDENTIFIER, identifier));
        let body = [
            element(SEQUENCE, b"to be signed"),
            algorithm,
            vec![0x03, 0x00],
        ]
        .concat();
        element(SEQUENCE, &body)
    }

    #[test]
    fn the_hash_is_that_of_the_signature() {
        for (last, length) in [(0x04, 32), (0x05, 32), (0x0b, 32), (0x0c, 48), (0x0d, 64)] {
            let identifier = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, last];
            let binding = server_end_point(&certificate(&identifier)).unwrap();
            assert_eq!(binding.len(), length, "{last:#x}");
        }
    }

    #[test]
    fn other_signatures_and_other_bytes_bind_nothing() {
        let ed25519 = certificate(&[0x2b, 0x65, 0x70]);
        assert_eq!(server_end_point(&ed25519), None);
        for length in 0..ed25519.len() {
            assert_eq!(server_end_point(&ed25519[..length]), None);
        }
        assert_eq!(server_end_point(&[0x30, 0xff, 0xff, 0xff]), None);
    }
}
