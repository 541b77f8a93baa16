//! The entry for fuzzers: any bytes, cut into frames, go through a socket of each version.
//!
//! *io*: looks at the clock once, for an instant to begin with.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::auth::{ApiKeys, Claims, Verifier};

use super::frame::{self, Version};
use super::input::{Input, Now};
use super::notice::Notice;
use super::output::{Frame, Output};
use super::socket::{Limits, Socket};

/// Hands `data` to a socket of each version: frames between `0xff` bytes, text where they are text. Joins are answered. Time
/// begins at `begin`.
///
/// Panics only if walcast has a bug: on any bytes, or where a frame that goes out is no JSON.
pub fn exercise(begin: Instant, data: &[u8]) {
    for version in [Version::V1, Version::V2] {
        // Also as they are, whatever the socket makes of them.
        let _message = frame::decode_binary(version, data);
        let Ok(verifier) = Verifier::new(None, None, ApiKeys::default()) else {
            return;
        };
        converse(version, Arc::new(verifier), begin, data);
    }
}

fn converse(version: Version, verifier: Arc<Verifier>, begin: Instant, data: &[u8]) {
    let mut now = Now {
        instant: begin,
        unix: 0,
    };
    let claims = Arc::new(Claims {
        json: r#"{"role":"anon"}"#.into(),
        role: "anon".into(),
        subject: None,
        expires_at: Some(60),
    });
    let own = (Arc::from("sb_x"), claims);
    let mut socket = Socket::new(now, version, Limits::default(), verifier, own);
    for bytes in data.split(|byte| *byte == 0xff) {
        match std::str::from_utf8(bytes) {
            Ok(text) => socket.handle(now, Input::Text(text)),
            Err(_binary) => socket.handle(now, Input::Binary(bytes)),
        }
        while let Some(output) = socket.poll_output() {
            match output {
                Output::Send(Frame::Text(text)) => {
                    assert!(serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok());
                }
                Output::Subscribe { membership, .. } => {
                    let notice = Notice::Subscribed;
                    socket.handle(now, Input::Notice { membership, notice });
                }
                _ => {}
            }
        }
        now.instant += Duration::from_secs(1);
        now.unix += 1;
        socket.handle_timeout(now);
    }
    socket.handle(now, Input::Gone);
}
