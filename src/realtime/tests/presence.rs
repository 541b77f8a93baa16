//! Presence on public channels.

use super::*;
use crate::realtime::{PresenceDiff, PresenceState};

fn joined(presence: &str) -> Conversation {
    let mut conversation = Conversation::in_rooms(Version::V2);
    let join =
        format!(r#"["1","1","realtime:a","phx_join",{{"config":{{"presence":{presence}}}}}]"#);
    conversation
        .socket
        .handle(conversation.now, Input::Text(&join));
    let _outputs = conversation.outputs();
    conversation
}

fn reply(status: &str, response: &str) -> String {
    format!(r#"["1","4","realtime:a","phx_reply",{{"status":"{status}","response":{response}}}]"#)
}

fn call(payload: &str) -> String {
    format!(r#"["1","4","realtime:a","presence",{payload}]"#)
}

fn diff() -> Notice {
    let topic = Topic::parse("realtime:a").unwrap();
    let payload = r#"{"joins":{},"leaves":{}}"#.to_owned();
    Notice::PresenceDiff(Arc::new(PresenceDiff::new(&topic, payload, 2)))
}

const DIFF: &str = r#"[null,null,"realtime:a","presence_diff",{"joins":{},"leaves":{}}]"#;

#[test]
fn who_wants_presence_is_told_who_is_there() {
    let begin = |presence: &str, outputs: &[&str]| {
        Conversation::in_rooms(Version::V2).text(
            &format!(r#"["1","1","realtime:a","phx_join",{{"config":{{{presence}}}}}]"#),
            outputs,
        );
    };
    let ok =
        r#"["1","1","realtime:a","phx_reply",{"status":"ok","response":{"postgres_changes":[]}}]"#;
    let enter = "room of 1: enter for broadcasts presence";
    begin(
        r#""presence":{"enabled":true}"#,
        &[ok, enter, "room of 1: state"],
    );
    // Old clients do not say that they want it.
    begin(r#""presence":{"key":""}"#, &[ok, enter, "room of 1: state"]);
    begin("", &[ok, enter, "room of 1: state"]);
    begin(r#""presence":{"enabled":false}"#, &[ok, enter]);

    let mut conversation = joined(r#"{"enabled":true}"#);
    conversation
        .notice(
            1,
            Notice::PresenceState(PresenceState(r#"{"ann":{"metas":[]}}"#.into())),
            &[r#"["1",null,"realtime:a","presence_state",{"ann":{"metas":[]}}]"#],
        )
        .notice(1, diff(), &[DIFF]);
    assert_eq!(conversation.socket.take_deliveries().presence_events, 2);
    joined(r#"{"enabled":false}"#).notice(1, diff(), &[DIFF]);
}

#[test]
fn calls_are_always_answered() {
    let ok = reply("ok", "{}");
    let error = reply("error", "{}");
    let no_map = reply(
        "error",
        r#"{"reason":"Presence track payload must be a map"}"#,
    );
    let check = |payload: &str, outputs: &[&str]| {
        joined(r#"{"key":"ann","enabled":true}"#).text(&call(payload), outputs);
    };
    check(
        r#"{"type":"presence","event":"track","payload":{"user":"ann", "n":1.0}}"#,
        &[&ok, r#"room of 1: track ann {"user":"ann", "n":1.0}"#],
    );
    check(r#"{"event":"TRACK"}"#, &[&ok, "room of 1: track ann {}"]);
    check(r#"{"event":"UnTrack"}"#, &[&ok, "room of 1: untrack"]);
    check(r#"{"type":"presence"}"#, &[&ok]);
    check(r#"{"event":"track","payload":[]}"#, &[&no_map]);
    check(r#"{"event":"track","payload":null}"#, &[&no_map]);
    check(r#"{"event":"unheard_of"}"#, &[&error]);
    check(r#"{"event":7}"#, &[&error]);
    check("[]", &[&error]);
    check("null", &[&error]);
}

#[test]
fn tracking_turns_presence_on() {
    let ok = reply("ok", "{}");
    joined(r#"{"key":"ann","enabled":false}"#)
        .text(
            &call(r#"{"event":"track"}"#),
            &[&ok, "room of 1: track ann {}", "room of 1: state"],
        )
        .text(
            &call(r#"{"event":"track"}"#),
            &[&ok, "room of 1: track ann {}"],
        );
}

#[test]
fn without_a_key_the_server_makes_one_for_the_membership() {
    let key = |conversation: &mut Conversation| {
        let text = call(r#"{"event":"track"}"#);
        conversation
            .socket
            .handle(conversation.now, Input::Text(&text));
        conversation.outputs()[1].clone()
    };
    let mut conversation = joined("{}");
    let first = key(&mut conversation);
    assert_eq!(key(&mut conversation), first);
    assert_eq!(first.len(), "room of 1: track  {}".len() + 36, "{first}");
    conversation.socket.handle(
        conversation.now,
        Input::Text(r#"["2","2","realtime:a","phx_join",{}]"#),
    );
    let _outputs = conversation.outputs();
    assert_ne!(key(&mut conversation), first.replace("of 1", "of 2"));
}

#[test]
fn calls_have_a_limit_of_their_own() {
    let closed = |text: &str| {
        [
            "room of 1: leave".to_owned(),
            format!(
                r#"["1",null,"realtime:a","system",{{"extension":"system","status":"error","message":"{text}","channel":"a"}}]"#
            ),
            r#"["1","1","realtime:a","phx_close",{}]"#.to_owned(),
        ]
    };
    let mut conversation = joined("{}");
    let ok = reply("ok", "{}");
    for second in 0..5 {
        conversation.at(second).text(&call("{}"), &[&ok]);
    }
    let expected = closed("Client presence rate limit exceeded");
    conversation
        .at(29)
        .text(&call("{}"), &expected.each_ref().map(String::as_str));

    let mut conversation = joined("{}");
    for second in [0, 0, 0, 0, 0, 30, 30, 30, 30, 30] {
        conversation.at(second).text(&call("{}"), &[&ok]);
    }

    let limits = Limits {
        payload_bytes_max: 5,
        ..Limits::default()
    };
    let mut conversation = Conversation::with(Version::V2, limits, 60);
    conversation.rooms = true;
    conversation.socket.handle(
        conversation.now,
        Input::Text(r#"["1","1","realtime:a","phx_join",{}]"#),
    );
    let _outputs = conversation.outputs();
    let expected = closed("Track message size exceeded");
    conversation.text(
        &call(r#"{"event":"track","payload":{"x":1}}"#),
        &expected.each_ref().map(String::as_str),
    );
}
