//! Sending and presence wait for their permissions.

use super::*;

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
