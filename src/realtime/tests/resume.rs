//! Channels that come back for what the database broadcasts.

use super::*;
use crate::change::{Cursor, Epoch, Lsn};

const OK: &str =
    r#"["1","1","realtime:a","phx_reply",{"status":"ok","response":{"postgres_changes":[]}}]"#;
const PUBLIC: &str =
    r#"["1","1","realtime:a","phx_join",{"config":{"presence":{"enabled":false}}}]"#;
const PRIVATE: &str =
    r#"["1","1","realtime:a","phx_join",{"config":{"private":true,"presence":{"enabled":false}}}]"#;
const REPLAYING: &str = r#"["1","1","realtime:a","phx_join",{"config":{"private":true,"presence":{"enabled":false},"broadcast":{"replay":{"since":0,"limit":3}}}}]"#;
const ENTER_PUBLIC: &str = "room of 1: enter for broadcasts presence";
const ENTER: &str = "private room of 1: enter to replay";

fn row(n: u64) -> Arc<Broadcast> {
    let topic = Topic::parse("realtime:a").unwrap();
    let message = Broadcast::new(topic, json("e", "{}"), Some(n.to_string().into()));
    let cursor = Cursor {
        epoch: Epoch(1),
        commit_lsn: Lsn::new(n),
        order: 0,
    };
    Arc::new(message.committed_by(Xid(1)).committed_at(cursor))
}

fn frame(n: u64) -> String {
    format!(r#"\x04\n\x01\n\x01realtime:ae{{\"id\":\"{n}\"}}{{}}"#)
}

fn heard(n: u64) -> String {
    format!("heard {}", Lsn::new(n))
}

fn read(broadcast: bool) -> Result<Answer, AskError> {
    Ok(Answer::Read {
        broadcast,
        presence: false,
    })
}

fn resync(reason: ResyncReason) -> String {
    format!(
        r#"["1",null,"realtime:a","system",{{"extension":"system","status":"error","message":"Resync required: {reason}","channel":"a"}}]"#
    )
}

impl Conversation {
    fn resuming() -> Self {
        let conversation = Self::in_rooms(Version::V2);
        Self {
            socket: conversation.socket.resuming(),
            ..conversation
        }
    }

    #[track_caller]
    fn listening(&mut self, goes_on: bool, expected: &[&str]) -> &mut Self {
        self.notice(1, Notice::Listening { goes_on }, expected)
    }

    #[track_caller]
    fn missed(&mut self, n: u64, expected: &[&str]) -> &mut Self {
        self.notice(1, Notice::Missed(row(n)), expected)
    }

    /// The database says something in the room.
    #[track_caller]
    fn said(&mut self, n: u64, expected: &[&str]) -> &mut Self {
        self.notice(1, Notice::Broadcast(row(n)), expected)
    }
}

#[test]
fn what_was_missed_comes_before_what_the_room_says() {
    Conversation::resuming()
        .text(PUBLIC, &["listen false"])
        .said(1, &[])
        .listening(true, &[OK, ENTER_PUBLIC, "hear"])
        .said(2, &[])
        .missed(1, &[&frame(1), &heard(1)])
        // What clients say is no part of it.
        .hear(json("e", "{}"), None, &[r"\x04\n\x01\x00\x01realtime:ae{}"])
        .missed(2, &[&frame(2), &heard(2)])
        .notice(1, Notice::CaughtUp, &[])
        .said(3, &[&frame(3), &heard(3)])
        .missed(4, &[]);
}

#[test]
fn a_channel_that_may_not_read_asks_for_no_position() {
    Conversation::resuming()
        .text(PRIVATE, &["ask 1.1 as anon: read"])
        .answer(1, read(false), &["forget", r#"["1","1","realtime:a","phx_reply",{"status":"error","response":{"reason":"Unauthorized: You do not have permissions to read from this Channel topic: a"}}]"#])
        .listening(true, &[]);
}

#[test]
fn who_goes_on_needs_no_replay() {
    Conversation::resuming()
        .text(REPLAYING, &["ask 1.1 as anon: read"])
        .answer(1, read(true), &["listen true"])
        .listening(true, &[OK, ENTER, "hear"]);
    Conversation::resuming()
        .text(REPLAYING, &["ask 1.1 as anon: read"])
        .answer(1, read(true), &["listen true"])
        .listening(false, &[ENTER, "ask 1.2 as anon: replay 3 since 0"]);
}

#[test]
fn a_stored_broadcast_that_was_heard_does_not_come_again_as_a_row() {
    Conversation::resuming()
        .text(PRIVATE, &["ask 1.1 as anon: read"])
        .answer(1, read(true), &["listen false"])
        .listening(true, &[OK, ENTER, "hear"])
        .hear_stored("7", "{}", &[r"\x04\n\x01\x00\x01realtime:ae{}"])
        .missed(7, &[&heard(7)])
        .missed(8, &[&frame(8), &heard(8)]);
}

#[test]
fn a_loss_is_told_and_the_channel_goes_on() {
    let told = resync(ResyncReason::PositionGone);
    Conversation::resuming()
        .text(PUBLIC, &["listen false"])
        .listening(false, &[OK, ENTER_PUBLIC, "hear"])
        .notice(1, Notice::Unheard(ResyncReason::PositionGone), &[&told])
        .notice(1, Notice::Unheard(ResyncReason::PositionGone), &[])
        .notice(1, Notice::CaughtUp, &[])
        .notice(1, Notice::Unheard(ResyncReason::PositionGone), &[&told])
        .said(1, &[&frame(1), &heard(1)])
        .notice(1, Notice::Unheard(ResyncReason::PositionGone), &[&told]);
}

#[test]
fn what_is_in_doubt_has_not_been_heard() {
    let mut conversation = Conversation::resuming();
    conversation
        .text(PRIVATE, &["ask 1.1 as anon: read"])
        .answer(1, read(true), &["listen false"])
        .listening(true, &[OK, ENTER, "hear"]);
    let doubt = Some(conversation.begin + Duration::from_secs(1));
    let doubted = Arc::try_unwrap(row(1)).unwrap().in_doubt_since(doubt);
    conversation
        .at(2)
        .notice(
            1,
            Notice::Missed(Arc::new(doubted)),
            &["ask 1.2 as anon: reread"],
        )
        .missed(2, &[]);
    assert!(!conversation.socket.has_passed_all_on(1));
    conversation.answer(2, read(true), &[&frame(1), &heard(1), &frame(2), &heard(2)]);
    assert!(conversation.socket.has_passed_all_on(1));
}

#[test]
fn who_may_not_come_back_asks_for_nothing() {
    Conversation::in_rooms(Version::V2)
        .text(PUBLIC, &[OK, ENTER_PUBLIC])
        .said(1, &[&frame(1)]);
}
