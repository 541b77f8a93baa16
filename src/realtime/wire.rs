//! How a channel and its socket write, and what a channel may see of its socket.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::auth::{Claims, Verifier};

use super::code::ErrorCode;
use super::frame::{self, End, QuotedTopic, Ref, Status, Version};
use super::input::Now;
use super::output::{Deliveries, Frame, Output, Tally};
use super::rate::{Counted, Rates, Subject, Subjects};
use super::refusal::Refusal;
use super::socket::Limits;

/// What is written to, in which version, and when.
pub(super) struct Wire<'a> {
    pub(super) version: Version,
    pub(super) now: Now,
    pub(super) limits: &'a Limits,
    pub(super) verifier: &'a Verifier,
    pub(super) subjects: &'a Arc<Subjects>,
    /// Random, and the socket's own.
    pub(super) seed: &'a [u8; 16],
    /// Channels are to be told that their resume ID cannot be one.
    pub(super) resume_ignored: bool,
    /// The socket may come back.
    pub(super) resumes: bool,
    pub(super) rates: &'a mut Rates,
    pub(super) deliveries: &'a mut Deliveries,
    pub(super) outputs: &'a mut VecDeque<Output>,
}

impl Wire<'_> {
    pub(super) fn send(&mut self, text: String) {
        self.push(Output::Send(Frame::Text(text)));
    }

    pub(super) fn push(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    pub(super) fn count(&mut self, code: ErrorCode) {
        self.push(Output::Record(Tally::Error(code)));
    }

    pub(super) fn reply(
        &mut self,
        refs: (&Ref, &Ref),
        topic: &QuotedTopic,
        status: Status,
        response: &str,
    ) {
        self.send(frame::reply(self.version, refs, topic, status, response));
    }

    /// A join error.
    pub(super) fn refuse(&mut self, refs: (&Ref, &Ref), topic: &QuotedTopic, why: &Refusal) {
        let response = format!(r#"{{"reason":{}}}"#, frame::quote(&why.to_string()));
        self.reply(refs, topic, Status::Error, &response);
        self.push(Output::Record(Tally::JoinRefused(why.code())));
    }

    /// The answer to a push on a topic that is not joined.
    pub(super) fn unmatched(&mut self, reference: &Ref, topic: &QuotedTopic) {
        let response = r#"{"reason":"unmatched topic"}"#;
        self.reply((&Ref::null(), reference), topic, Status::Error, response);
    }

    pub(super) fn end(&mut self, join_ref: &Ref, topic: &QuotedTopic, end: End) {
        self.send(frame::end(self.version, join_ref, topic, end));
    }

    /// The subject of these claims, if anything is limited for subjects.
    pub(super) fn subject(&self, claims: &Claims) -> Option<Arc<Subject>> {
        let limits = self.limits;
        let limited = [limits.messages, limits.joins, limits.presence_events]
            .iter()
            .any(|limit| limit.subject > 0);
        let name = claims.subject.as_deref().filter(|_| limited)?;
        Some(self.subjects.subject(name))
    }

    /// Counts one more of something that a channel sends or is sent, unless it is too many already.
    pub(super) fn admit(
        &mut self,
        counted: Counted,
        channel: &mut Rates,
        subject: Option<&Subject>,
    ) -> bool {
        let limit = match counted {
            Counted::Messages => self.limits.messages,
            Counted::Joins => self.limits.joins,
            Counted::PresenceEvents => self.limits.presence_events,
        };
        let now = self.now.instant;
        super::rate::admit(counted, now, limit, self.rates, Some(channel), subject)
    }
}
