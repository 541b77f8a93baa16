//! What was stored comes before what is said.

use super::*;

fn stored(id: &str, data: StoredData) -> Stored {
    Stored {
        id: id.into(),
        event: "e".into(),
        data,
    }
}

fn two_stored() -> Result<Answer, AskError> {
    Ok(Answer::Replayed {
        stored: vec![
            stored("x", StoredData::Json(Bytes::from_static(b"{}"))),
            stored("y", StoredData::Binary(Bytes::from_static(&[7]))),
        ],
        snapshot: None,
    })
}

const REPLAYED_X: &str = r#"["1",null,"realtime:a","broadcast",{"event":"e","payload":{},"type":"broadcast","meta":{"replayed":true,"id":"x"}}]"#;
const REPLAYED_Y: &str = r#"\x04\n\x01\x1a\x00realtime:ae{\"replayed\":true,\"id\":\"y\"}\x07"#;

#[test]
fn what_was_stored_comes_first_and_only_once() {
    let live = |id: &str| format!(r#"\x04\n\x01\n\x01realtime:ae{{\"id\":\"{id}\"}}{{}}"#);
    Conversation::in_rooms(Version::V2)
        .text(
            &join(r#"{"replay":{"since":5,"limit":9}}"#, true),
            &["ask 1.1 as anon: read with presence"],
        )
        .answer(
            1,
            read(true, true),
            &[ENTER_REPLAYING, "ask 1.2 as anon: replay 9 since 5"],
        )
        .hear(json("e", "{}"), Some("y"), &[])
        .hear(json("e", "{}"), Some("z"), &[])
        .answer(
            2,
            two_stored(),
            &[
                OK,
                REPLAYED_X,
                REPLAYED_Y,
                &live("z"),
                "private room of 1: enter for broadcasts presence",
                "private room of 1: state",
            ],
        )
        .hear(json("e", "{}"), Some("x"), &[])
        .hear(json("e", "{}"), Some("w"), &[&live("w")]);
}

/// Read when transactions 14 and 20 had not committed.
fn one_stored() -> Result<Answer, AskError> {
    Ok(Answer::Replayed {
        stored: vec![stored("x", StoredData::Json(Bytes::from_static(b"{}")))],
        snapshot: Some("14:20:14".parse().unwrap()),
    })
}

#[test]
fn a_stream_that_lags_behind_a_replay_repeats_nothing() {
    let live = |id: &str| format!(r#"\x04\n\x01\n\x01realtime:ae{{\"id\":\"{id}\"}}{{}}"#);
    Conversation::in_rooms(Version::V2)
        .text(&join(r#"{"replay":{}}"#, false), &["ask 1.1 as anon: read"])
        .answer(
            1,
            read(true, false),
            &[ENTER_REPLAYING, "ask 1.2 as anon: replay 10 since 0"],
        )
        .hear_row(9, "a", &[])
        .hear_row(14, "b", &[])
        .hear(json("e", "{}"), Some("c"), &[])
        .hear_row(15, "x", &[])
        .answer(2, one_stored(), &[OK, REPLAYED_X, &live("b"), &live("c")])
        // Older than what was replayed, and committed before it.
        .hear_row(16, "d", &[])
        .hear_row(15, "x", &[])
        .hear_row(20, "e", &[&live("e")])
        // What is no row is known by its id.
        .hear(json("e", "{}"), Some("x"), &[])
        .hear(json("e", "{}"), Some("x"), &[&live("x")])
        .at(599)
        .hear_row(19, "f", &[])
        // By then another server may count.
        .at(600)
        .hear_row(19, "g", &[&live("g")]);
}

#[test]
fn what_is_stored_while_somebody_joins_comes_once() {
    let live = |data: &str| format!(r#"\x04\n\x01\x00\x01realtime:ae{data}"#);
    Conversation::in_rooms(Version::V2)
        .text(&join(r#"{"replay":{}}"#, false), &["ask 1.1 as anon: read"])
        .answer(
            1,
            read(true, false),
            &[ENTER_REPLAYING, "ask 1.2 as anon: replay 10 since 0"],
        )
        // Said, and in the replay; said, and not in it; the same again, by the other way.
        .hear_stored("x", "1", &[])
        .hear_stored("y", "2", &[])
        .hear_stored("y", "2", &[])
        .hear_stored("z", "3", &[])
        .answer(2, one_stored(), &[OK, REPLAYED_X, &live("2"), &live("3")])
        .hear_stored("z", "3", &[])
        .hear_stored("x", "1", &[])
        .hear_stored("w", "4", &[&live("4")]);
}

#[test]
fn what_a_replay_has_passed_takes_no_room_while_the_bindings_are_waited_for() {
    let options = r#","private":true,"presence":{"enabled":false},"broadcast":{"replay":{}}"#;
    let mut conversation = Conversation::in_rooms(Version::V2);
    conversation
        .text(&join_with("1", options, None), &["ask 1.1 as anon: read"])
        .answer(
            1,
            read(true, false),
            &[ENTER_REPLAYING, "ask 1.2 as anon: replay 10 since 0"],
        )
        .answer(2, one_stored(), &[SUBSCRIBE]);
    for _ in 0..2000 {
        conversation.hear_row(9, "a", &[]);
    }
    conversation.notice(
        1,
        Notice::Subscribed,
        &[crate::realtime::tests::OK, REPLAYED_X, SUBSCRIBED],
    );
}

#[test]
fn what_was_stored_precedes_what_the_bindings_say() {
    let options = r#","private":true,"presence":{"enabled":false},"broadcast":{"replay":{},"replication_ready":true}"#;
    Conversation::in_rooms(Version::V2)
        .text(&join_with("1", options, None), &["ask 1.1 as anon: read"])
        .answer(
            1,
            read(true, false),
            &[ENTER_REPLAYING, "ask 1.2 as anon: replay 10 since 0"],
        )
        .answer(2, two_stored(), &[SUBSCRIBE])
        .hear(json("e", "{}"), None, &[])
        .notice(
            1,
            Notice::Subscribed,
            &[
                crate::realtime::tests::OK,
                REPLAYED_X,
                REPLAYED_Y,
                FRAME,
                SUBSCRIBED,
                "await replication 1",
            ],
        );
}

#[test]
fn version_1_gets_no_binary_replay() {
    Conversation::begin(Version::V1)
        .text(
            r#"{"topic":"realtime:a","event":"phx_join","payload":{"config":{"private":true,"broadcast":{"replay":{"since":1}},"presence":{"enabled":false}}},"ref":"1","join_ref":"1"}"#,
            &["ask 1.1 as anon: read"],
        )
        .answer(
            1,
            read(true, false),
            &["ask 1.2 as anon: replay 10 since 1"],
        )
        .answer(
            2,
            two_stored(),
            &[
                r#"{"topic":"realtime:a","event":"phx_reply","payload":{"status":"ok","response":{"postgres_changes":[]}},"ref":"1"}"#,
                r#"{"topic":"realtime:a","event":"broadcast","payload":{"event":"e","payload":{},"type":"broadcast","meta":{"replayed":true,"id":"x"}},"ref":null}"#,
            ],
        );
}

#[test]
fn a_replay_that_cannot_be_served_refuses_the_join() {
    let begin = |replay: &str| {
        let mut conversation = Conversation::in_rooms(Version::V2);
        conversation.text(
            &join(&format!(r#"{{"replay":{replay}}}"#), true),
            &["ask 1.1 as anon: read with presence"],
        );
        conversation
    };
    let denied = refused(&format!("Unauthorized: {DENIED}"));
    let failed = refused("UnableToReplayMessages: Realtime was unable to replay messages");
    begin("{}").answer(1, read(false, true), &[&denied]);
    begin(r#"{"since":"x"}"#).answer(1, read(false, true), &[&denied]);
    begin(r#"{"since":"x"}"#).answer(
        1,
        read(true, true),
        &[&refused(
            "UnableToReplayMessages: Replay params are not valid",
        )],
    );
    let ask = [ENTER_REPLAYING, "ask 1.2 as anon: replay 10 since 0"];
    begin("{}").answer(1, read(true, true), &ask).answer(
        2,
        Err(AskError::Unreachable),
        &[LEAVE, &failed],
    );
    // More comes meanwhile than is kept.
    let mut conversation = begin("{}");
    conversation.answer(1, read(true, true), &ask);
    for _ in 0..1024 {
        conversation.hear(json("e", "{}"), None, &[]);
    }
    conversation.hear(json("e", "{}"), None, &[LEAVE, &failed]);
}
