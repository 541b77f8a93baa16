//! How a channel and its socket write.

use std::collections::VecDeque;

use super::frame::{self, End, QuotedTopic, Ref, Status, Version};
use super::input::Now;
use super::output::{Frame, Output, Tally};
use super::refusal::Refusal;

/// What is written to, in which version, and when.
pub(super) struct Wire<'a> {
    pub(super) version: Version,
    pub(super) now: Now,
    pub(super) outputs: &'a mut VecDeque<Output>,
}

impl Wire<'_> {
    pub(super) fn send(&mut self, text: String) {
        self.outputs.push_back(Output::Send(Frame::Text(text)));
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
        self.outputs
            .push_back(Output::Record(Tally::JoinRefused(why.code())));
    }

    pub(super) fn end(&mut self, join_ref: &Ref, topic: &QuotedTopic, end: End) {
        self.send(frame::end(self.version, join_ref, topic, end));
    }
}
