//! Private channels: permissions, replay, storage (protocol.md §5.3, §5.6, §5.7, §7.4, §7.5).

use super::*;
use crate::realtime::Stored;

const OK: &str =
    r#"["1","1","realtime:a","phx_reply",{"status":"ok","response":{"postgres_changes":[]}}]"#;
const ENTER: &str = "private room of 1: enter for broadcasts";
const ENTER_REPLAYING: &str = "private room of 1: enter to replay";
const LEAVE: &str = "private room of 1: leave";
const CLOSE: &str = r#"["1","1","realtime:a","phx_close",{}]"#;
const FRAME: &str = r"\x04\n\x01\x00\x01realtime:ae{}";

fn join(broadcast: &str, presence: bool) -> String {
    format!(
        r#"["1","1","realtime:a","phx_join",{{"config":{{"private":true,"broadcast":{broadcast},"presence":{{"key":"ann","enabled":{presence}}}}}}}]"#
    )
}

#[expect(clippy::unnecessary_wraps, reason = "as questions are answered")]
fn read(broadcast: bool, presence: bool) -> Result<Answer, AskError> {
    Ok(Answer::Read {
        broadcast,
        presence,
    })
}

fn refused(reason: &str) -> String {
    format!(
        r#"["1","1","realtime:a","phx_reply",{{"status":"error","response":{{"reason":"{reason}"}}}}]"#
    )
}

fn system(message: &str) -> String {
    format!(
        r#"["1",null,"realtime:a","system",{{"extension":"system","status":"error","message":"{message}","channel":"a"}}]"#
    )
}

fn reply(reference: &str, status: &str, response: &str) -> String {
    format!(
        r#"["1","{reference}","realtime:a","phx_reply",{{"status":"{status}","response":{response}}}]"#
    )
}

fn refresh(token: &str) -> String {
    format!(r#"["1","3","realtime:a","access_token",{{"access_token":"{token}"}}]"#)
}

/// A private channel that may read broadcasts and has no presence.
fn joined(broadcast: &str) -> Conversation {
    let mut conversation = Conversation::in_rooms(Version::V2);
    conversation
        .text(&join(broadcast, false), &["ask 1.1 as anon: read"])
        .answer(1, read(true, false), &[OK, ENTER]);
    conversation
}

const DENIED: &str = "You do not have permissions to read from this Channel topic: a";
const NO_LONGER: &str = "You no longer have permission to read from this Channel topic: a";

#[test]
fn a_join_waits_for_its_permission_and_nothing_else_does() {
    let mut conversation = Conversation::in_rooms(Version::V2);
    conversation
        .text(&join("{}", true), &["ask 1.1 as anon: read with presence"])
        .text(
            r#"[null,"5","phoenix","heartbeat",{}]"#,
            &[r#"[null,"5","phoenix","phx_reply",{"status":"ok","response":{}}]"#],
        )
        .text(
            r#"["8","8","realtime:b","phx_join",{"config":{"presence":{"enabled":false}}}]"#,
            &[
                r#"["8","8","realtime:b","phx_reply",{"status":"ok","response":{"postgres_changes":[]}}]"#,
                "room of 2: enter for broadcasts presence",
            ],
        )
        .text(r#"["1","3","realtime:a","broadcast",{}]"#, &[])
        .answer(
            1,
            read(true, true),
            &[
                OK,
                "private room of 1: enter for broadcasts presence",
                "private room of 1: state",
            ],
        )
        .answer(1, read(false, false), &[]);
}

#[test]
fn either_permission_admits_and_each_gives_its_own() {
    Conversation::in_rooms(Version::V2)
        .text(&join("{}", true), &["ask 1.1 as anon: read with presence"])
        .answer(
            1,
            read(false, true),
            &[
                OK,
                "private room of 1: enter for presence",
                "private room of 1: state",
            ],
        )
        .hear(json("e", "{}"), None, &[]);
    Conversation::in_rooms(Version::V2)
        .text(&join("{}", true), &["ask 1.1 as anon: read with presence"])
        .answer(1, read(true, false), &[OK, ENTER])
        .hear(json("e", "{}"), None, &[FRAME]);
}

#[test]
fn a_join_is_refused_with_the_reason() {
    let check = |answer: Result<Answer, AskError>, reason: &str| {
        Conversation::in_rooms(Version::V2)
            .text(&join("{}", false), &["ask 1.1 as anon: read"])
            .answer(1, answer, &[&refused(reason)])
            .text(
                r#"["1","2","realtime:a","broadcast",{}]"#,
                &[r#"[null,"2","realtime:a","phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]"#],
            );
    };
    let denied = format!("Unauthorized: {DENIED}");
    check(read(false, false), &denied);
    check(Err(AskError::Policy("division by zero".into())), &denied);
    check(
        Err(AskError::Cancelled),
        "QueryCanceled: Query was cancelled, please try again",
    );
    check(
        Err(AskError::MissingPartition),
        "MissingPartition: Realtime was unable to find the expected messages partition",
    );
    check(
        Err(AskError::Unreachable),
        "UnableToConnectToProject: Realtime was unable to connect to the project database",
    );
    check(
        Err(AskError::TooManyConnections),
        "DatabaseLackOfConnections: Database can't accept more connections, Realtime won't connect",
    );
    check(
        Err(AskError::Overloaded),
        "IncreaseConnectionPool: Please increase your connection pool size",
    );
    check(
        Err(AskError::NotInstalled),
        "RealtimeDisabledForConfiguration: private channels need the table realtime.messages; run walcast setup",
    );
    Conversation::in_rooms(Version::V2)
        .text(&join("{}", false), &["ask 1.1 as anon: read"])
        .at(8)
        .timeout(&[&refused(
            "InitializingProjectConnection: Realtime is initializing the project connection",
        )])
        .answer(1, read(true, true), &[]);
}

#[test]
fn bindings_are_asked_for_after_the_permission() {
    let join = join_with("1", r#","private":true,"presence":{"enabled":false}"#, None);
    let mut conversation = Conversation::in_rooms(Version::V2);
    conversation
        .text(&join, &["ask 1.1 as anon: read"])
        .answer(1, read(true, false), &[SUBSCRIBE])
        .notice(1, Notice::Subscribed, &[super::OK, ENTER, SUBSCRIBED]);
    conversation.changes(
        1,
        &["{}"],
        &[r#"[null,null,"realtime:a","postgres_changes",{"ids":[7],"last":true,"data":{}}]"#],
    );
    Conversation::in_rooms(Version::V2)
        .text(&join, &["ask 1.1 as anon: read"])
        .answer(
            1,
            read(false, false),
            &[&refused(&format!("Unauthorized: {DENIED}"))],
        );
    // A new token while the first question is open: only the answer for the new one counts.
    let user = token("authenticated", 600);
    Conversation::in_rooms(Version::V2)
        .text(&join, &["ask 1.1 as anon: read"])
        .text(&refresh(&user), &["ask 1.2 as authenticated: read"])
        .answer(1, read(false, false), &[])
        .answer(
            2,
            read(true, false),
            &[&SUBSCRIBE.replace("anon", "authenticated")],
        );
}

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
    conversation.notice(1, Notice::Subscribed, &[super::OK, REPLAYED_X, SUBSCRIBED]);
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
                super::OK,
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

#[test]
fn the_first_broadcast_asks_and_the_others_wait_in_order() {
    let push = |number: &str| {
        let reference = number;
        kind_3(reference, "e", "", true, number.as_bytes())
    };
    let say =
        |number: &str| format!(r"private room of 1: say \x04\n\x01\x00\x01realtime:ae{number}");
    let ok = |number: &str| reply(number, "ok", "{}");
    let mut conversation = joined(r#"{"ack":true}"#);
    conversation
        .check(
            Input::Binary(&push("3")),
            &["ask 1.2 as anon: write broadcast"],
        )
        .check(Input::Binary(&push("4")), &[])
        .answer(
            2,
            Ok(Answer::Write(true)),
            &[&say("3"), &ok("3"), &say("4"), &ok("4")],
        )
        .check(Input::Binary(&push("5")), &[&say("5"), &ok("5")])
        // The token changes: it is asked again.
        .text(
            &refresh(&token("authenticated", 60)),
            &["ask 1.3 as authenticated: read"],
        )
        .check(
            Input::Binary(&push("6")),
            &["ask 1.4 as authenticated: write broadcast"],
        )
        .answer(3, read(true, false), &[])
        .answer(
            4,
            Ok(Answer::Write(false)),
            &[&reply("6", "error", r#"{"error":"unauthorized"}"#)],
        )
        .check(
            Input::Binary(&push("7")),
            &[&reply("7", "error", r#"{"error":"unauthorized"}"#)],
        );
    let mut silent = joined("{}");
    silent
        .check(
            Input::Binary(&push("3")),
            &["ask 1.2 as anon: write broadcast"],
        )
        .answer(2, Ok(Answer::Write(false)), &[])
        .check(Input::Binary(&push("4")), &[]);
}

#[test]
fn a_question_that_fails_is_put_again() {
    let push = kind_3("3", "e", "", true, b"{}");
    let mut conversation = joined(r#"{"ack":true}"#);
    let errors = [
        (AskError::Policy("x".into()), "rls_policy_error"),
        (AskError::Cancelled, "query_canceled"),
        (AskError::MissingPartition, "missing_partition"),
        (AskError::Unreachable, "unable_to_connect_to_project"),
        (AskError::TooManyConnections, "increase_connection_pool"),
        (AskError::Overloaded, "increase_connection_pool"),
        (AskError::NotInstalled, "unable_to_set_policies"),
    ];
    for ((error, code), ticket) in errors.into_iter().zip(2..) {
        let ask = format!("ask 1.{ticket} as anon: write broadcast");
        let told = reply("3", "error", &format!(r#"{{"error":"{code}"}}"#));
        conversation
            .check(Input::Binary(&push), &[&ask])
            .answer(ticket, Err(error), &[&told]);
    }
}

#[test]
fn pushes_that_wait_are_bounded() {
    let mut conversation = joined(r#"{"ack":true}"#);
    let full = reply("3", "error", r#"{"error":"increase_connection_pool"}"#);
    let small = kind_3("3", "e", "", true, b"{}");
    conversation.check(Input::Binary(&small), &["ask 1.2 as anon: write broadcast"]);
    for _ in 1..1024 {
        conversation.check(Input::Binary(&small), &[]);
    }
    conversation.check(Input::Binary(&small), &[&full]);

    let mut conversation = joined(r#"{"ack":true}"#);
    let large = kind_3("3", "e", "", false, &[0; 3_000_000]);
    conversation
        .check(Input::Binary(&large), &["ask 1.2 as anon: write broadcast"])
        .check(Input::Binary(&large), &[&full])
        .check(Input::Binary(&small), &[]);
}

#[test]
fn a_broadcast_is_said_and_then_stored() {
    let say = r"private room of 1: say \x04\n\x01\x00\x01realtime:ae{}";
    let push = |metadata: &str| kind_3("3", "e", metadata, true, b"{}");
    let permitted = |broadcast: &str| {
        let mut conversation = joined(broadcast);
        conversation.check(
            Input::Binary(&push("")),
            &["ask 1.2 as anon: write broadcast"],
        );
        let answered = Notice::Answered {
            ticket: 2,
            answer: Ok(Answer::Write(true)),
        };
        let input = Input::Notice {
            membership: 1,
            notice: answered,
        };
        conversation.socket.handle(conversation.now, input);
        let _outputs = conversation.outputs();
        conversation
    };
    let mut conversation = permitted(r#"{"ack":true}"#);
    conversation
        .check(
            Input::Binary(&push(r#"{"persist":true}"#)),
            &[say, "ask 1.3 as anon: persist e {} for 259200"],
        )
        .check(
            Input::Binary(&push(r#"{"persist":{"ttl":60}}"#)),
            &[say, "ask 1.4 as anon: persist e {} for 60"],
        )
        .answer(4, Ok(Answer::Persisted(None)), &[&reply("3", "ok", "{}")])
        .answer(
            3,
            Ok(Answer::Persisted(Some("c2f1".into()))),
            &[&reply("3", "ok", r#"{"id":"c2f1"}"#)],
        )
        .answer(3, Ok(Answer::Persisted(None)), &[])
        .check(
            Input::Binary(&push(r#"{"persist":{"ttl":0}}"#)),
            &[&reply("3", "error", r#"{"error":"invalid_persist_ttl"}"#)],
        )
        .check(
            Input::Binary(&push(r#"{"persist":true}"#)),
            &[say, "ask 1.5 as anon: persist e {} for 259200"],
        )
        .answer(5, Err(AskError::Unreachable), &[&reply("3", "ok", "{}")]);
    // What cannot wait to be stored is said all the same.
    for ticket in 6..6 + 256 {
        let ask = format!("ask 1.{ticket} as anon: persist e {{}} for 259200");
        conversation.check(Input::Binary(&push(r#"{"persist":true}"#)), &[say, &ask]);
    }
    conversation.check(
        Input::Binary(&push(r#"{"persist":true}"#)),
        &[say, &reply("3", "ok", "{}")],
    );
    permitted("{}")
        .check(
            Input::Binary(&push(r#"{"persist":true}"#)),
            &[say, "ask 1.3 as anon: persist e {} for 259200"],
        )
        .answer(3, Ok(Answer::Persisted(Some("x".into()))), &[]);
}

#[test]
fn presence_calls_wait_for_their_permission() {
    let call = |reference: &str, event: &str| {
        format!(r#"["1","{reference}","realtime:a","presence",{{"event":"{event}"}}]"#)
    };
    let track = "private room of 1: track ann {}";
    let untrack = "private room of 1: untrack";
    let ok = |reference: &str| reply(reference, "ok", "{}");
    let begin = || {
        let mut conversation = Conversation::in_rooms(Version::V2);
        conversation
            .text(&join("{}", true), &["ask 1.1 as anon: read with presence"])
            .answer(
                1,
                read(true, true),
                &[
                    OK,
                    "private room of 1: enter for broadcasts presence",
                    "private room of 1: state",
                ],
            );
        conversation
    };
    begin()
        .text(&call("3", "untrack"), &[&ok("3"), untrack])
        .text(&call("4", "track"), &["ask 1.2 as anon: write presence"])
        .text(&call("5", "untrack"), &[])
        .answer(
            2,
            Ok(Answer::Write(true)),
            &[&ok("4"), track, &ok("5"), untrack],
        )
        .text(&call("6", "track"), &[&ok("6"), track]);
    for answer in [Ok(Answer::Write(false)), Err(AskError::Cancelled)] {
        begin()
            .text(&call("4", "track"), &["ask 1.2 as anon: write presence"])
            .answer(2, answer, &[&reply("4", "error", "{}")]);
    }
    // Permissions to broadcast and to be present are two.
    begin()
        .text(
            r#"["1","3","realtime:a","broadcast",{}]"#,
            &["ask 1.2 as anon: write broadcast"],
        )
        .text(&call("4", "track"), &["ask 1.3 as anon: write presence"])
        .answer(3, Ok(Answer::Write(true)), &[&ok("4"), track])
        .answer(
            2,
            Ok(Answer::Write(true)),
            &[r#"private room of 1: say [null,null,"realtime:a","broadcast",{}]"#],
        );
}

#[test]
fn tracking_asks_for_what_the_join_did_not() {
    let call = r#"["1","4","realtime:a","presence",{"event":"track"}]"#;
    joined("{}")
        .text(call, &["ask 1.2 as anon: write presence"])
        .answer(
            2,
            Ok(Answer::Write(true)),
            &[
                &reply("4", "ok", "{}"),
                "private room of 1: track ann {}",
                "ask 1.3 as anon: reread with presence",
            ],
        )
        .answer(
            3,
            read(true, true),
            &[
                "private room of 1: enter for broadcasts presence",
                "private room of 1: state",
            ],
        );
}

#[test]
fn a_new_token_is_asked_about_and_its_loss_told() {
    let user = token("authenticated", 600);
    let ask = "ask 1.2 as authenticated: read with presence";
    let begin = |broadcast: bool, presence: bool| {
        let mut conversation = Conversation::begin(Version::V2);
        conversation
            .text(&join("{}", true), &["ask 1.1 as anon: read with presence"])
            .answer(1, read(broadcast, presence), &[OK]);
        conversation.rooms = true;
        conversation.text(&refresh(&user), &[ask]);
        conversation
    };
    begin(true, true).answer(2, read(true, true), &[]);
    begin(true, false).answer(
        2,
        read(true, true),
        &[
            "private room of 1: enter for broadcasts presence",
            "private room of 1: state",
        ],
    );
    begin(false, true).answer(
        2,
        read(true, true),
        &["private room of 1: enter for broadcasts presence"],
    );
    for partly in [read(false, true), read(true, false)] {
        begin(true, true).answer(2, partly, &[LEAVE, &system(NO_LONGER), CLOSE]);
    }
    let check = |answer, text: &str| {
        begin(true, true).answer(2, answer, &[LEAVE, &system(text), CLOSE]);
    };
    check(read(false, false), DENIED);
    check(Err(AskError::Policy("x".into())), DENIED);
    check(
        Err(AskError::Cancelled),
        "Query was cancelled, please try again",
    );
    check(
        Err(AskError::Unreachable),
        "Realtime was unable to connect to the project database",
    );
}

#[test]
fn who_lost_the_permission_is_told_when_policies_change() {
    joined("{}")
        .recheck(0, &["ask 1.2 as anon: reread"])
        // Once is enough while a question is open, but its answer may be too old.
        .recheck(1, &[])
        .recheck(2, &[])
        .answer(2, read(true, false), &["ask 1.3 as anon: reread"])
        .hear(json("e", "{}"), None, &[FRAME])
        .answer(3, read(false, false), &[LEAVE, &system(DENIED), CLOSE])
        .hear(json("e", "{}"), None, &[]);
    joined("{}")
        .recheck(0, &["ask 1.2 as anon: reread"])
        .answer(2, Err(AskError::Unreachable), &[])
        .hear(json("e", "{}"), None, &[FRAME])
        .recheck(1, &["ask 1.3 as anon: reread"])
        .answer(
            3,
            Err(AskError::Policy("x".into())),
            &[LEAVE, &system(DENIED), CLOSE],
        );
    // A public channel has nothing to ask.
    Conversation::begin(Version::V2)
        .text(r#"["1","1","realtime:a","phx_join",{}]"#, &[OK])
        .recheck(0, &[]);
}

#[test]
fn channels_ask_within_a_second_and_not_all_at_once() {
    let mut conversation = Conversation::begin(Version::V2);
    for number in 1..=100 {
        let rename = |text: &str| {
            let refs = format!(r#"["{number}","{number}","realtime:{number}""#);
            text.replace(r#"["1","1","realtime:a""#, &refs)
        };
        let answer = read(true, false);
        conversation
            .text(
                &rename(&join("{}", false)),
                &[&format!("ask {number}.1 as anon: read")],
            )
            .notice(
                number,
                Notice::Answered { ticket: 1, answer },
                &[&rename(OK)],
            )
            .notice(number, Notice::Recheck(Duration::from_secs(1)), &[]);
    }
    let mut moments = Vec::new();
    let mut asked = 0;
    while asked < 100 {
        conversation.now.instant = conversation.socket.next_timeout().unwrap();
        conversation.socket.handle_timeout(conversation.now);
        asked += conversation.outputs().len();
        moments.push(conversation.now.instant - conversation.begin);
    }
    assert_eq!(asked, 100);
    assert!(moments.len() > 80, "{moments:?}");
    assert!(moments.first() < Some(&Duration::from_millis(100)));
    assert!(moments.last() > Some(&Duration::from_millis(900)));
    assert!(moments.last() < Some(&Duration::from_secs(1)));
}

#[test]
fn the_permission_to_send_is_asked_again_as_well() {
    let push = r#"["1","3","realtime:a","broadcast",{}]"#;
    let say = r#"private room of 1: say [null,null,"realtime:a","broadcast",{}]"#;
    joined("{}")
        .text(push, &["ask 1.2 as anon: write broadcast"])
        .answer(2, Ok(Answer::Write(true)), &[say])
        .recheck(
            0,
            &[
                "ask 1.3 as anon: reread",
                "ask 1.4 as anon: write broadcast",
            ],
        )
        .text(push, &[say])
        .answer(4, Ok(Answer::Write(false)), &[])
        .text(push, &[])
        .answer(3, read(true, false), &[])
        // Who was denied asks when it sends.
        .recheck(1, &["ask 1.5 as anon: reread"])
        .text(push, &["ask 1.6 as anon: write broadcast"]);
}

#[test]
fn an_answer_about_sending_that_is_older_than_a_doubt_is_asked_for_again() {
    let push = r#"["1","3","realtime:a","broadcast",{}]"#;
    let say = r#"private room of 1: say [null,null,"realtime:a","broadcast",{}]"#;
    let ask = |ticket: u32| format!("ask 1.{ticket} as anon: write broadcast");
    let mut conversation = joined("{}");
    conversation
        .text(push, &[&ask(2)])
        .recheck(0, &["ask 1.3 as anon: reread"])
        .answer(2, Ok(Answer::Write(true)), &[say, &ask(4)])
        .answer(3, read(true, false), &[])
        // Until it is answered what was allowed stays so.
        .text(push, &[say])
        .recheck(1, &["ask 1.5 as anon: reread"])
        .answer(5, read(true, false), &[])
        .answer(4, Ok(Answer::Write(false)), &[])
        .text(push, &[&ask(6)])
        .answer(6, Ok(Answer::Write(true)), &[say])
        // And without an answer it is asked again soon.
        .recheck(10, &["ask 1.7 as anon: reread", &ask(8)])
        .answer(7, read(true, false), &[])
        .answer(8, Err(AskError::Cancelled), &[])
        .text(push, &[say])
        .at(17)
        .timeout(&["ask 1.9 as anon: reread", &ask(10)]);
}

#[test]
fn who_enters_says_when_its_permission_was_asked_for() {
    for replay in ["{}", r#"{"replay":{}}"#] {
        let mut conversation = Conversation::in_rooms(Version::V2);
        conversation
            .text(&join(replay, false), &["ask 1.1 as anon: read"])
            .at(2);
        let answer = Notice::Answered {
            ticket: 1,
            answer: read(true, false),
        };
        let input = Input::Notice {
            membership: 1,
            notice: answer,
        };
        conversation.socket.handle(conversation.now, input);
        let mut asked = Vec::new();
        while let Some(output) = conversation.socket.poll_output() {
            if let Output::Room {
                request: RoomRequest::Enter(entry) | RoomRequest::EnterReplaying(entry),
                ..
            } = output
            {
                asked.push(entry.asked);
            }
        }
        // The answer may be as old as the question.
        assert_eq!(asked, [Some(conversation.begin)]);
    }
}

#[test]
fn permissions_are_looked_at_again_by_and_by() {
    let mut conversation = joined("{}");
    let mut last = 0;
    let mut ticket = 2;
    for second in 1..3000 {
        conversation.at(second).check(Input::Control, &[]);
        conversation.socket.handle_timeout(conversation.now);
        let outputs = conversation.outputs();
        if outputs.is_empty() {
            continue;
        }
        assert_eq!(outputs, [format!("ask 1.{ticket} as anon: reread")]);
        assert!((45..=61).contains(&(second - last)), "{last} to {second}");
        conversation.answer(ticket, read(true, false), &[]);
        last = second;
        ticket += 1;
    }
    assert!(last > 2900);
}

#[test]
fn a_recheck_that_fails_is_repeated_soon() {
    joined("{}")
        .recheck(0, &["ask 1.2 as anon: reread"])
        .answer(2, Err(AskError::Overloaded), &[])
        .at(4)
        .timeout(&[])
        .at(6)
        .timeout(&["ask 1.3 as anon: reread"])
        .answer(3, read(true, false), &[])
        .at(40)
        .timeout(&[]);
}

#[test]
fn an_unanswered_recheck_is_put_again_after_a_while() {
    let mut conversation = joined("{}");
    conversation
        .recheck(0, &["ask 1.2 as anon: reread"])
        .at(50)
        .check(Input::Control, &[])
        .recheck(59, &[])
        .recheck(61, &["ask 1.3 as anon: reread"])
        .answer(2, read(false, false), &[])
        .answer(3, read(true, false), &[])
        .check(Input::Control, &[])
        .hear(json("e", "{}"), None, &[FRAME]);
}

/// Rows, as frames.
const ROW_1: &str = r#"\x04\n\x01\n\x01realtime:ae{\"id\":\"1\"}{}"#;
const ROW_2: &str = r#"\x04\n\x01\n\x01realtime:ae{\"id\":\"2\"}{}"#;

#[test]
fn what_was_said_after_a_doubt_waits_for_an_answer_and_all_behind_it() {
    joined("{}")
        .at(2)
        .hear_in_doubt(0, "1", &[ROW_1])
        .hear_in_doubt(1, "1", &["ask 1.2 as anon: reread"])
        .hear(json("e", "{}"), None, &[])
        .hear_in_doubt(1, "2", &[])
        .answer(2, read(true, false), &[ROW_1, FRAME, ROW_2])
        // The question was put after both.
        .hear_in_doubt(1, "1", &[ROW_1])
        .hear_in_doubt(2, "2", &[ROW_2]);
}

#[test]
fn who_is_denied_never_gets_what_was_said_after_the_doubt() {
    for answer in [read(false, false), Err(AskError::Policy("x".into()))] {
        joined("{}")
            .at(2)
            .hear_in_doubt(1, "1", &["ask 1.2 as anon: reread"])
            .hear(json("e", "{}"), None, &[])
            .answer(2, answer, &[LEAVE, &system(DENIED), CLOSE])
            .hear_in_doubt(1, "2", &[]);
    }
    // Without an answer nothing goes on either.
    joined("{}")
        .at(2)
        .hear_in_doubt(1, "1", &["ask 1.2 as anon: reread"])
        .answer(2, Err(AskError::Overloaded), &[])
        .at(3)
        .hear(json("e", "{}"), None, &["ask 1.3 as anon: reread"])
        .answer(3, read(true, false), &[ROW_1, FRAME]);
}

#[test]
fn an_answer_counts_for_what_was_doubted_before_its_question() {
    joined("{}")
        .at(2)
        .hear_in_doubt(1, "1", &["ask 1.2 as anon: reread"])
        .at(4)
        .hear_in_doubt(3, "2", &[])
        .answer(2, read(true, false), &[ROW_1, "ask 1.3 as anon: reread"])
        .answer(3, read(true, false), &[ROW_2]);
}

#[test]
fn doubts_that_follow_each_other_do_not_ask_each_time() {
    let mut conversation = joined("{}");
    conversation
        .at(2)
        .hear_in_doubt(2, "1", &["ask 1.2 as anon: reread"])
        .answer(2, read(true, false), &[ROW_1]);
    conversation.now.instant += Duration::from_millis(10);
    let doubt = conversation.now.instant;
    conversation
        .hear_since(Some(doubt), "1", &[])
        .hear_since(Some(doubt), "2", &[]);
    conversation.now.instant += Duration::from_millis(30);
    conversation.timeout(&[]);
    conversation.now.instant += Duration::from_millis(10);
    assert_eq!(
        conversation.socket.next_timeout(),
        Some(conversation.now.instant)
    );
    conversation.timeout(&["ask 1.3 as anon: reread"]).answer(
        3,
        read(true, false),
        &[ROW_1, ROW_2],
    );
}

#[test]
fn what_memory_cannot_answer_the_database_is_asked() {
    joined("{}")
        .at(2)
        .hear_in_doubt(1, "1", &["ask 1.2 as anon: reread"])
        .notice(
            1,
            Notice::Undecided { ticket: 2 },
            &["ask 1.3 as anon: read"],
        )
        // Of an earlier question.
        .notice(1, Notice::Undecided { ticket: 2 }, &[])
        .answer(2, read(true, false), &[])
        .answer(3, read(true, false), &[ROW_1]);
}

#[test]
fn a_telling_without_delay_asks_at_once() {
    joined("{}").at(2).notice(
        1,
        Notice::Recheck(Duration::ZERO),
        &["ask 1.2 as anon: reread"],
    );
}

#[test]
fn what_waits_in_doubt_is_bounded() {
    let mut conversation = joined("{}");
    conversation
        .at(2)
        .hear_in_doubt(1, "1", &["ask 1.2 as anon: reread"]);
    for _ in 1..1024 {
        conversation.hear_in_doubt(1, "1", &[]);
    }
    let error = r#"["1","1","realtime:a","phx_error",{}]"#;
    conversation.hear_in_doubt(
        1,
        "1",
        &[
            LEAVE,
            &system("Resync required: verdict could not be taken"),
            error,
        ],
    );
}

#[test]
fn a_join_that_was_permitted_before_the_doubt_asks_again() {
    let mut conversation = Conversation::in_rooms(Version::V2);
    conversation
        .text(&join(r#"{"replay":{}}"#, false), &["ask 1.1 as anon: read"])
        .at(2)
        .answer(
            1,
            read(true, false),
            &[ENTER_REPLAYING, "ask 1.2 as anon: replay 10 since 0"],
        )
        .hear_in_doubt(1, "1", &[]);
    let answer = Answer::Replayed {
        stored: Vec::new(),
        snapshot: None,
    };
    conversation
        .answer(2, Ok(answer), &[OK, "ask 1.3 as anon: reread"])
        .answer(3, read(true, false), &[ROW_1]);
}
