//! How the server's certificate is judged (io: reads certificate files, once).
//!
//! In go the parameters of a connection string, out comes a rustls configuration. Nothing is installed for the whole
//! process. Follows the Postgres manual, "SSL Support", table "SSL Mode Descriptions": below `verify-ca` and without
//! `sslrootcert` any certificate will do, because then TLS only hides the traffic.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::url::{DatabaseUrlError, Parameters, SslMode};

/// The client's side of TLS for `parameters`; `None` if TLS is never spoken.
pub(super) fn configure(
    parameters: &Parameters,
) -> Result<Option<Arc<ClientConfig>>, DatabaseUrlError> {
    if parameters.ssl_mode == SslMode::Disable {
        return Ok(None);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let trust = match (parameters.ssl_mode, &parameters.root_certificates) {
        (SslMode::VerifyFull, file) => Trust::load(file.as_deref(), true)?,
        // libpq: a root certificate that is given is used, whatever the mode.
        (SslMode::VerifyCa, file) | (_, file @ Some(_)) => Trust::load(file.as_deref(), false)?,
        (_, None) => Trust::Anyone,
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|source| unusable("sslmode", "", source))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { trust, provider }));
    let config = match &parameters.client_certificate {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = load_certificates("sslcert", certificate)?;
            let key_der = PrivateKeyDer::from_pem_file(key)
                .map_err(|source| unusable("sslkey", key, source))?;
            builder
                .with_client_auth_cert(chain, key_der)
                .map_err(|source| unusable("sslcert", certificate, source))?
        }
    };
    Ok(Some(Arc::new(config)))
}

fn load_certificates(
    name: &'static str,
    path: &str,
) -> Result<Vec<CertificateDer<'static>>, DatabaseUrlError> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| unusable(name, path, source))?;
    if certificates.is_empty() {
        return Err(unusable(name, path, NoCertificate));
    }
    Ok(certificates)
}

/// A file, or the system's store, without a single certificate.
#[derive(Debug, thiserror::Error)]
#[error("it holds no certificate in PEM form")]
struct NoCertificate;

fn unusable(
    name: &'static str,
    path: &str,
    source: impl std::error::Error + Send + Sync + 'static,
) -> DatabaseUrlError {
    DatabaseUrlError::File {
        name,
        path: path.to_owned(),
        source: Box::new(source),
    }
}

/// Whose certificates are accepted.
#[derive(Debug)]
enum Trust {
    /// `require` and below: the peer must hold its certificate's key, and that is all.
    Anyone,
    /// `verify-ca` and `verify-full`.
    Signed {
        /// The certificate is signed by one of these,
        roots: RootCertStore,
        /// or it is one of these: a server's self-signed certificate is its own authority, whatever it says of itself.
        pinned: Vec<CertificateDer<'static>>,
        /// `verify-full`: and it names the host.
        named: bool,
    },
}

impl Trust {
    /// The certificates in `file`; without one, or with `system`, those of the operating system.
    fn load(file: Option<&str>, named: bool) -> Result<Self, DatabaseUrlError> {
        let mut roots = RootCertStore::empty();
        let pinned = match file {
            None | Some("system") => {
                let found = rustls_native_certs::load_native_certs();
                let (added, _unparsable) = roots.add_parsable_certificates(found.certs);
                if added == 0 {
                    return Err(unusable("sslrootcert", "system", NoCertificate));
                }
                Vec::new()
            }
            Some(path) => {
                let certificates = load_certificates("sslrootcert", path)?;
                for certificate in &certificates {
                    roots
                        .add(certificate.clone())
                        .map_err(|source| unusable("sslrootcert", path, source))?;
                }
                certificates
            }
        };
        Ok(Self::Signed {
            roots,
            pinned,
            named,
        })
    }
}

#[derive(Debug)]
struct Verifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Trust::Signed {
            roots,
            pinned,
            named,
        } = &self.trust
        else {
            return Ok(ServerCertVerified::assertion());
        };
        let certificate = ParsedCertificate::try_from(end_entity)?;
        if !pinned.contains(end_entity) {
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(
                &certificate,
                roots,
                intermediates,
                now,
                algorithms,
            )?;
        }
        if *named {
            verify_server_name(&certificate, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
