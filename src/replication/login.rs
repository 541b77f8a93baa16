//! The login of a walsender session, as a state machine.
//!
//! [`ServerMessage`]s go in, bytes to send come out, until the server is ready for a query. Never shows the password,
//! and never takes a server for authenticated by SCRAM that has not proved that it knows the password. Follows the
//! Postgres manual, "Start-up" in "Message Flow" and "SASL Authentication".

use std::io;

use bytes::BytesMut;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    self, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::frontend;

use crate::database::{self, ChannelBinding};

use super::message::{AuthenticationRequest, MessageError, ServerError, ServerMessage};

/// The login did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The server says no.
    #[error(transparent)]
    Refused(#[from] ServerError),
    /// The server wants a password and there is none.
    #[error("the server asks for a password; write postgres://USER:PASSWORD@HOST/DATABASE")]
    NoPassword,
    /// Kerberos and the like.
    #[error(
        "the server asks for a way of authentication that walcast does not speak; let pg_hba.conf ask the user for \
         scram-sha-256"
    )]
    Unsupported,
    /// `channel_binding=require` cannot be met.
    #[error(
        "channel_binding=require, but the server offers no binding; it needs TLS and scram-sha-256"
    )]
    NoChannelBinding,
    /// The server failed to prove itself, or broke SCRAM.
    #[error("the server failed to authenticate itself")]
    Server(#[source] io::Error),
    /// A message that has no place here.
    #[error("the server broke the protocol during the login")]
    Protocol,
    /// The connection string cannot be encoded.
    #[error("cannot encode the login")]
    Encode(#[from] MessageError),
}

/// How far a login has come.
pub struct LoginState<'a> {
    login: database::Login<'a>,
    server_end_point: Option<Vec<u8>>,
    stage: Stage,
    process_id: i32,
    read_only: bool,
}

enum Stage {
    /// The startup message is sent, or the password.
    Waiting,
    /// SCRAM; the flag says whether the server has proved itself.
    Scram(Box<ScramSha256>, bool),
    /// Settings follow until the server is ready.
    Admitted,
}

/// A session that is ready for a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The process that serves the session.
    pub process_id: i32,
    /// The server takes no writes.
    pub read_only: bool,
}

impl<'a> LoginState<'a> {
    /// Begins a login; `out` gets the startup message for a logical walsender session. `server_end_point` is the TLS
    /// connection's binding, if it is one.
    ///
    /// # Errors
    /// A part of the login holds a NUL character.
    pub fn start(
        login: database::Login<'a>,
        server_end_point: Option<Vec<u8>>,
        application_name: &str,
        out: &mut BytesMut,
    ) -> Result<Self, LoginError> {
        let mut parameters = vec![
            ("user", login.user),
            ("database", login.database),
            ("replication", "database"),
            ("client_encoding", "UTF8"),
            ("application_name", application_name),
        ];
        parameters.extend(login.options.map(|options| ("options", options)));
        frontend::startup_message(parameters, out).map_err(MessageError::Malformed)?;
        Ok(Self {
            login,
            server_end_point,
            stage: Stage::Waiting,
            process_id: 0,
            read_only: false,
        })
    }

    /// Takes the server's next message; `out` gets the answer. `Some` once the session is ready.
    ///
    /// # Errors
    /// The login failed; the connection is of no further use.
    pub fn handle(
        &mut self,
        message: ServerMessage,
        out: &mut BytesMut,
    ) -> Result<Option<Admission>, LoginError> {
        match (message, &self.stage) {
            (ServerMessage::Authentication(request), _) => self.authenticate(request, out)?,
            (ServerMessage::Error(error), _) => return Err(error.into()),
            (ServerMessage::Parameter { name, value }, _) => {
                if matches!(
                    name.as_str(),
                    "in_hot_standby" | "default_transaction_read_only"
                ) {
                    self.read_only |= value == "on";
                }
            }
            (ServerMessage::ProcessId(id), Stage::Admitted) => self.process_id = id,
            (ServerMessage::Ready, Stage::Admitted) => {
                return Ok(Some(Admission {
                    process_id: self.process_id,
                    read_only: self.read_only,
                }));
            }
            (ServerMessage::Other, _) => {}
            _ => return Err(LoginError::Protocol),
        }
        Ok(None)
    }

    fn authenticate(
        &mut self,
        request: AuthenticationRequest,
        out: &mut BytesMut,
    ) -> Result<(), LoginError> {
        let encode = |result: io::Result<()>| {
            result.map_err(|error| LoginError::Encode(MessageError::Malformed(error)))
        };
        let bound = self.login.channel_binding == ChannelBinding::Require;
        match (request, &mut self.stage) {
            (AuthenticationRequest::Ok, Stage::Waiting) if bound => {
                return Err(LoginError::NoChannelBinding);
            }
            (AuthenticationRequest::Ok, Stage::Waiting | Stage::Scram(_, true)) => {
                self.stage = Stage::Admitted
            }
            (AuthenticationRequest::Cleartext | AuthenticationRequest::Md5(_), Stage::Waiting)
                if bound =>
            {
                return Err(LoginError::NoChannelBinding);
            }
            (AuthenticationRequest::Cleartext, Stage::Waiting) => {
                encode(frontend::password_message(self.password()?, out))?;
            }
            (AuthenticationRequest::Md5(salt), Stage::Waiting) => {
                let hash = md5_hash(self.login.user.as_bytes(), self.password()?, salt);
                encode(frontend::password_message(hash.as_bytes(), out))?;
            }
            (AuthenticationRequest::Sasl(mechanisms), Stage::Waiting) => {
                let (mechanism, binding) = self.choose(&mechanisms)?;
                let scram = ScramSha256::new(self.password()?, binding);
                encode(frontend::sasl_initial_response(
                    mechanism,
                    scram.message(),
                    out,
                ))?;
                self.stage = Stage::Scram(Box::new(scram), false);
            }
            (AuthenticationRequest::SaslContinue(challenge), Stage::Scram(scram, false)) => {
                scram.update(&challenge).map_err(LoginError::Server)?;
                encode(frontend::sasl_response(scram.message(), out))?;
            }
            (AuthenticationRequest::SaslFinal(proof), Stage::Scram(scram, proved @ false)) => {
                scram.finish(&proof).map_err(LoginError::Server)?;
                *proved = true;
            }
            (AuthenticationRequest::Unsupported, _) => return Err(LoginError::Unsupported),
            _ => return Err(LoginError::Protocol),
        }
        Ok(())
    }

    fn password(&self) -> Result<&'a [u8], LoginError> {
        self.login
            .password
            .map(str::as_bytes)
            .ok_or(LoginError::NoPassword)
    }

    /// The strongest mechanism that both sides have.
    fn choose(
        &self,
        offered: &[String],
    ) -> Result<(&'static str, sasl::ChannelBinding), LoginError> {
        let offers = |name: &str| offered.iter().any(|mechanism| mechanism == name);
        let own = match self.login.channel_binding {
            ChannelBinding::Disable => None,
            ChannelBinding::Prefer | ChannelBinding::Require => self.server_end_point.clone(),
        };
        match own {
            Some(hash) if offers(SCRAM_SHA_256_PLUS) => Ok((
                SCRAM_SHA_256_PLUS,
                sasl::ChannelBinding::tls_server_end_point(hash),
            )),
            _ if self.login.channel_binding == ChannelBinding::Require => {
                Err(LoginError::NoChannelBinding)
            }
            _ if !offers(SCRAM_SHA_256) => Err(LoginError::Unsupported),
            // We could bind and the server says that it cannot: it will notice if somebody between us took its offer out.
            Some(_) => Ok((SCRAM_SHA_256, sasl::ChannelBinding::unrequested())),
            None => Ok((SCRAM_SHA_256, sasl::ChannelBinding::unsupported())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(password: Option<&str>, channel_binding: ChannelBinding) -> database::Login<'_> {
        database::Login {
            user: "u",
            password,
            database: "d",
            options: None,
            channel_binding,
        }
    }

    fn start<'a>(login: database::Login<'a>, binding: Option<&[u8]>) -> LoginState<'a> {
        LoginState::start(
            login,
            binding.map(<[u8]>::to_vec),
            "walcast",
            &mut BytesMut::new(),
        )
        .unwrap()
    }

    #[track_caller]
    fn answer(
        state: &mut LoginState<'_>,
        request: AuthenticationRequest,
    ) -> Result<Vec<u8>, LoginError> {
        let mut out = BytesMut::new();
        let ready = state.handle(ServerMessage::Authentication(request), &mut out)?;
        assert_eq!(ready, None);
        Ok(out.to_vec())
    }

    #[test]
    fn the_startup_message_asks_for_a_logical_walsender() {
        let mut out = BytesMut::new();
        LoginState::start(
            login(None, ChannelBinding::Prefer),
            None,
            "walcast",
            &mut out,
        )
        .unwrap();
        assert!(
            String::from_utf8_lossy(&out).contains("replication\0database\0"),
            "{out:?}"
        );
    }

    #[test]
    fn passwords_are_sent_as_asked() {
        let with = login(Some("password"), ChannelBinding::Prefer);
        let sent = answer(&mut start(with, None), AuthenticationRequest::Cleartext).unwrap();
        assert_eq!(sent, b"p\0\0\0\x0dpassword\0");
        let sent = answer(&mut start(with, None), AuthenticationRequest::Md5(*b"salt")).unwrap();
        assert!(sent.starts_with(b"p\0\0\0\x28md5"));
        let without = login(None, ChannelBinding::Prefer);
        let refused = answer(&mut start(without, None), AuthenticationRequest::Cleartext);
        assert!(matches!(refused, Err(LoginError::NoPassword)));
    }

    #[test]
    fn scram_binds_to_tls_where_both_can() {
        let both = || {
            AuthenticationRequest::Sasl(vec![
                SCRAM_SHA_256_PLUS.to_owned(),
                SCRAM_SHA_256.to_owned(),
            ])
        };
        let plain = || AuthenticationRequest::Sasl(vec![SCRAM_SHA_256.to_owned()]);
        let prefer = login(Some("x"), ChannelBinding::Prefer);
        for (binding, request, header) in [
            (Some(b"hash".as_slice()), both(), "SCRAM-SHA-256-PLUS\0"),
            (Some(b"hash"), plain(), "y,,"),
            (None, plain(), "n,,"),
            (None, both(), "n,,"),
        ] {
            let sent = answer(&mut start(prefer, binding), request).unwrap();
            assert!(
                String::from_utf8_lossy(&sent).contains(header),
                "{header:?}"
            );
        }
        let require = login(Some("x"), ChannelBinding::Require);
        for request in [
            plain(),
            AuthenticationRequest::Cleartext,
            AuthenticationRequest::Ok,
        ] {
            let refused = answer(&mut start(require, Some(b"hash")), request);
            assert!(matches!(refused, Err(LoginError::NoChannelBinding)));
        }
    }

    #[test]
    fn a_server_that_skips_its_proof_is_not_believed() {
        let mut state = start(login(Some("x"), ChannelBinding::Prefer), None);
        answer(
            &mut state,
            AuthenticationRequest::Sasl(vec![SCRAM_SHA_256.to_owned()]),
        )
        .unwrap();
        assert!(matches!(
            answer(&mut state, AuthenticationRequest::Ok),
            Err(LoginError::Protocol)
        ));
    }

    #[test]
    fn the_session_is_ready_when_the_server_says_so() {
        let mut state = start(login(None, ChannelBinding::Prefer), None);
        let mut out = BytesMut::new();
        assert!(matches!(
            state.handle(ServerMessage::Ready, &mut out),
            Err(LoginError::Protocol)
        ));
        answer(&mut state, AuthenticationRequest::Ok).unwrap();
        let standby = ServerMessage::Parameter {
            name: "in_hot_standby".to_owned(),
            value: "on".to_owned(),
        };
        assert_eq!(state.handle(standby, &mut out).unwrap(), None);
        assert_eq!(
            state.handle(ServerMessage::ProcessId(7), &mut out).unwrap(),
            None
        );
        let admission = Admission {
            process_id: 7,
            read_only: true,
        };
        assert_eq!(
            state.handle(ServerMessage::Ready, &mut out).unwrap(),
            Some(admission)
        );
    }
}
