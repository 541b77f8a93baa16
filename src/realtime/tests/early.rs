//! Pushes that come before their join is answered.

use super::*;

const REFUSED: &str = r#"["1","1","realtime:a","phx_reply",{"status":"error","response":{"reason":"Unauthorized: You do not have permissions to read from this Channel topic: a"}}]"#;

fn private(broadcast: &str) -> String {
    format!(
        r#"["1","1","realtime:a","phx_join",{{"config":{{"private":true,"broadcast":{broadcast},"presence":{{"key":"ann","enabled":false}}}}}}]"#
    )
}

fn reply(reference: &str, response: &str) -> String {
    format!(
        r#"["1","{reference}","realtime:a","phx_reply",{{"status":"ok","response":{response}}}]"#
    )
}

fn unmatched(reference: &str) -> String {
    format!(
        r#"[null,"{reference}","realtime:a","phx_reply",{{"status":"error","response":{{"reason":"unmatched topic"}}}}]"#
    )
}

fn read(broadcast: bool) -> Result<Answer, AskError> {
    Ok(Answer::Read {
        broadcast,
        presence: false,
    })
}

/// One of each kind, with references from 3 on.
fn push_everything(conversation: &mut Conversation) {
    conversation
        .check(Input::Binary(&kind_3("3", "e", "", true, b"[1]")), &[])
        .text(
            r#"["1","4","realtime:a","presence",{"event":"track","payload":{"n":1}}]"#,
            &[],
        )
        .text(r#"["1","5","realtime:a","unheard_of",{}]"#, &[])
        .text(
            r#"[null,"6","realtime:a","broadcast",{"event":"f","payload":{}}]"#,
            &[],
        )
        .text(r#"["0","7","realtime:a","phx_leave",{}]"#, &[]);
}

#[test]
fn pushes_wait_for_the_reply_of_a_public_join() {
    let mut conversation = Conversation::in_rooms(Version::V2);
    let options = r#","broadcast":{"ack":true},"presence":{"key":"ann","enabled":false}"#;
    conversation.text(&join_with("1", options, None), &[SUBSCRIBE]);
    push_everything(&mut conversation);
    conversation
        .text(
            r#"[null,"8","phoenix","heartbeat",{}]"#,
            &[r#"[null,"8","phoenix","phx_reply",{"status":"ok","response":{}}]"#],
        )
        .notice(
            1,
            Notice::Subscribed,
            &[
                OK,
                "room of 1: enter for broadcasts presence",
                SUBSCRIBED,
                r"room of 1: say \x04\n\x01\x00\x01realtime:ae[1]",
                &reply("3", "{}"),
                &reply("4", "{}"),
                r#"room of 1: track ann {"n":1}"#,
                "room of 1: state",
                r#"room of 1: say [null,null,"realtime:a","broadcast",{"event":"f","payload":{}}]"#,
                &reply("6", "{}"),
            ],
        )
        .notice(1, Notice::Subscribed, &[SUBSCRIBED]);
}

#[test]
fn the_same_in_version_1() {
    let reply = |reference: &str, response: &str| {
        format!(
            r#"{{"topic":"realtime:a","event":"phx_reply","payload":{{"status":"ok","response":{response}}},"ref":"{reference}"}}"#
        )
    };
    Conversation::in_rooms(Version::V1)
        .text(
            r#"{"topic":"realtime:a","event":"phx_join","payload":{"config":{"private":true,"broadcast":{"ack":true}}},"ref":"1","join_ref":"1"}"#,
            &["ask 1.1 as anon: read with presence"],
        )
        .text(
            r#"{"topic":"realtime:a","event":"broadcast","payload":{"event":"e"},"ref":"2","join_ref":"1"}"#,
            &[],
        )
        .answer(
            1,
            read(true),
            &[
                &reply("1", r#"{"postgres_changes":[]}"#),
                "private room of 1: enter for broadcasts",
                "ask 1.2 as anon: write broadcast",
            ],
        )
        .answer(
            2,
            Ok(Answer::Write(true)),
            &[
                r#"private room of 1: say [null,null,"realtime:a","broadcast",{"event":"e"}]"#,
                &reply("2", "{}"),
            ],
        );
}

#[test]
fn a_private_join_asks_for_its_pushes_once_it_is_answered() {
    let ok =
        r#"["1","1","realtime:a","phx_reply",{"status":"ok","response":{"postgres_changes":[]}}]"#;
    let mut conversation = Conversation::in_rooms(Version::V2);
    conversation.text(&private(r#"{"ack":true}"#), &["ask 1.1 as anon: read"]);
    push_everything(&mut conversation);
    conversation
        .answer(
            1,
            read(true),
            &[
                ok,
                "private room of 1: enter for broadcasts",
                "ask 1.2 as anon: write broadcast",
                "ask 1.3 as anon: write presence",
            ],
        )
        .answer(
            2,
            Ok(Answer::Write(false)),
            &[
                r#"["1","3","realtime:a","phx_reply",{"status":"error","response":{"error":"unauthorized"}}]"#,
                r#"["1","6","realtime:a","phx_reply",{"status":"error","response":{"error":"unauthorized"}}]"#,
            ],
        );
}

#[test]
fn a_refused_join_leaves_its_pushes_without_a_topic() {
    let everything = |first: &str| {
        let mut expected = vec![first.to_owned()];
        expected.extend(["3", "4", "5", "6"].map(unmatched));
        expected
    };
    let mut conversation = Conversation::in_rooms(Version::V2);
    conversation.text(&private("{}"), &["ask 1.1 as anon: read"]);
    push_everything(&mut conversation);
    let expected = everything(REFUSED);
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    conversation.answer(1, read(false), &expected);

    // However it ends: joined again, left, too late, or while the server leaves.
    let join_again = private("{}").replace(r#"["1","1""#, r#"["2","2""#);
    let error = |text: &str| {
        format!(
            r#"["1","1","realtime:a","phx_reply",{{"status":"error","response":{{"reason":"{text}"}}}}]"#
        )
    };
    for (text, reason, rest) in [
        (
            join_again.as_str(),
            "UnknownErrorOnChannel: joined again before this join was answered",
            "ask 2.1 as anon: read".to_owned(),
        ),
        (
            r#"["1","9","realtime:a","phx_leave",{}]"#,
            "UnknownErrorOnChannel: left before the join was answered",
            reply("9", "{}"),
        ),
    ] {
        let mut conversation = Conversation::in_rooms(Version::V2);
        conversation.text(&private("{}"), &["ask 1.1 as anon: read"]);
        push_everything(&mut conversation);
        let mut expected = everything(&error(reason));
        expected.push(rest);
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        conversation.text(text, &expected);
    }
    let mut conversation = Conversation::in_rooms(Version::V2);
    conversation.text(&private("{}"), &["ask 1.1 as anon: read"]);
    push_everything(&mut conversation);
    let expected = everything(&error(
        "InitializingProjectConnection: Realtime is initializing the project connection",
    ));
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    conversation.at(8).timeout(&expected);
}

#[test]
fn a_token_keeps_its_place_among_pushes() {
    let user = token("authenticated", 600);
    let refresh = format!(r#"["1","4","realtime:a","access_token",{{"access_token":"{user}"}}]"#);
    let bad = r#"["1","4","realtime:a","access_token",{"access_token":"bad"}]"#;
    let push = |reference: &str| kind_3(reference, "e", "", true, b"{}");
    let ok =
        r#"["1","1","realtime:a","phx_reply",{"status":"ok","response":{"postgres_changes":[]}}]"#;
    let enter = "private room of 1: enter for broadcasts";
    // What was pushed with a token is handled before the token that ends the channel; nothing is after it.
    Conversation::in_rooms(Version::V2)
        .text(&private(r#"{"ack":true}"#), &["ask 1.1 as anon: read"])
        .check(Input::Binary(&push("3")), &[])
        .text(bad, &[])
        .check(Input::Binary(&push("5")), &[])
        .answer(
            1,
            read(true),
            &[
                ok,
                enter,
                "ask 1.2 as anon: write broadcast",
                "private room of 1: leave",
                r#"["1",null,"realtime:a","system",{"extension":"system","status":"error","message":"The token provided is not a valid JWT","channel":"a"}]"#,
                r#"["1","1","realtime:a","phx_close",{}]"#,
                &unmatched("5"),
            ],
        );
    // One that nothing waits before counts for the join.
    Conversation::in_rooms(Version::V2)
        .text(&private("{}"), &["ask 1.1 as anon: read"])
        .text(&refresh, &["ask 1.2 as authenticated: read"])
        .check(Input::Binary(&push("5")), &[])
        .answer(1, read(false), &[])
        .answer(
            2,
            read(true),
            &[ok, enter, "ask 1.3 as authenticated: write broadcast"],
        );
}

#[test]
fn a_socket_keeps_so_much_and_no_more() {
    let mut conversation = Conversation::in_rooms(Version::V2);
    conversation
        .text(&private("{}"), &["ask 1.1 as anon: read"])
        .text(
            &private("{}")
                .replace("realtime:a", "realtime:b")
                .replace(r#"["1","1""#, r#"["2","2""#),
            &["ask 2.1 as anon: read"],
        );
    let large = vec![b'1'; 2_500_000];
    conversation
        .check(Input::Binary(&kind_3("3", "e", "", true, &large)), &[])
        // It is the whole socket that counts.
        .text(
            &format!(r#"["2","4","realtime:b","broadcast",{{"payload":"{}"}}]"#, "x".repeat(2_500_000)),
            &[
                r#"["2","2","realtime:b","phx_reply",{"status":"error","response":{"reason":"UnknownErrorOnChannel: too much was sent before the join was answered"}}]"#,
                r#"[null,"4","realtime:b","phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]"#,
            ],
        );
    for _ in 0..1023 {
        conversation.text(r#"["1","5","realtime:a","unheard_of",{}]"#, &[]);
    }
    let input = Input::Text(r#"["1","6","realtime:a","unheard_of",{}]"#);
    conversation.socket.handle(conversation.now, input);
    let outputs = conversation.outputs();
    assert!(outputs[0].contains("too much was sent"), "{}", outputs[0]);
    assert_eq!(outputs.len(), 1 + 1025);
    assert_eq!(conversation.socket.channels(), 0);
}
