//! Broadcasts on public channels.

use super::*;

const OK: &str =
    r#"["1","1","realtime:a","phx_reply",{"status":"ok","response":{"postgres_changes":[]}}]"#;

/// A public channel of version 2 without presence.
fn joined(broadcast: &str) -> Conversation {
    let mut conversation = Conversation::in_rooms(Version::V2);
    conversation.text(
        &format!(
            r#"["1","1","realtime:a","phx_join",{{"config":{{"broadcast":{broadcast},"presence":{{"enabled":false}}}}}}]"#
        ),
        &[OK, "room of 1: enter for broadcasts presence"],
    );
    conversation
}

#[test]
fn objects_are_relayed_verbatim() {
    joined("{}")
        .text(
            r#"["1","3","realtime:a","broadcast",{"type":"broadcast", "event":"e","x":1.0}]"#,
            &[r#"room of 1: say [null,null,"realtime:a","broadcast",{"type":"broadcast", "event":"e","x":1.0}]"#],
        )
        // Some clients omit the join ref, or mean an older one.
        .text(
            r#"[null,null,"realtime:a","broadcast",{}]"#,
            &[r#"room of 1: say [null,null,"realtime:a","broadcast",{}]"#],
        )
        .text(
            r#"["0","3","realtime:a","broadcast",{}]"#,
            &[r#"room of 1: say [null,null,"realtime:a","broadcast",{}]"#],
        )
        .text(r#"["1","3","realtime:a","broadcast",[]]"#, &[])
        .text(r#"["1","3","realtime:a","broadcast",null]"#, &[])
        .check(
            Input::Binary(b"\x00\x01\x01\x0a\x0913realtime:abroadcast{\"event\":\"e\"}"),
            &[r#"room of 1: say [null,null,"realtime:a","broadcast",{"event":"e"}]"#],
        )
        .check(
            Input::Binary(b"\x00\x01\x01\x0a\x0913realtime:abroadcast\xff"),
            &[],
        );
}

#[test]
fn user_broadcasts_keep_their_bytes() {
    joined(r#"{"self":true}"#)
        .check(
            Input::Binary(&kind_3("3", "ping", "", true, br#"{ "n":1}"#)),
            &[r#"room of 1: say to all \x04\n\x04\x00\x01realtime:aping{ \"n\":1}"#],
        )
        .check(
            Input::Binary(&kind_3("3", "raw", "", false, &[0xde, 0xad])),
            &[r"room of 1: say to all \x04\n\x03\x00\x00realtime:araw\xde\xad"],
        )
        // Stored is nothing on a public channel, and bad metadata harms nobody.
        .check(
            Input::Binary(&kind_3("3", "e", r#"{"persist":{"ttl":0}}"#, true, b"{}")),
            &[r"room of 1: say to all \x04\n\x01\x00\x01realtime:ae{}"],
        )
        .check(Input::Binary(&kind_3("3", "e", "", true, b"{")), &[]);
}

#[test]
fn who_asks_for_acknowledgements_gets_them() {
    let reply = |status: &str, response: &str| {
        format!(
            r#"["1","3","realtime:a","phx_reply",{{"status":"{status}","response":{response}}}]"#
        )
    };
    let say = r"room of 1: say \x04\n\x01\x00\x01realtime:ae{}";
    let broken = reply("error", r#"{"error":"unable_to_handle_broadcast"}"#);
    joined(r#"{"ack":true}"#)
        .check(
            Input::Binary(&kind_3("3", "e", "", true, b"{}")),
            &[say, &reply("ok", "{}")],
        )
        .check(Input::Binary(&kind_3("3", "e", "", true, b"{")), &[&broken])
        .text(r#"["1","3","realtime:a","broadcast",7]"#, &[&broken])
        .text(
            r#"["1","3","realtime:a","broadcast",{}]"#,
            &[
                r#"room of 1: say [null,null,"realtime:a","broadcast",{}]"#,
                &reply("ok", "{}"),
            ],
        );
}

#[test]
fn payloads_have_a_limit() {
    let limits = Limits {
        payload_bytes_max: 10,
        ..Limits::default()
    };
    let mut conversation = Conversation::with(Version::V2, limits, 60);
    conversation
        .text(
            r#"["1","1","realtime:a","phx_join",{"config":{"broadcast":{"ack":true}}}]"#,
            &[OK],
        )
        .check(
            Input::Binary(&kind_3("3", "e", "", false, &[0; 10])),
            &[r#"["1","3","realtime:a","phx_reply",{"status":"ok","response":{}}]"#],
        )
        .check(
            Input::Binary(&kind_3("3", "e", "", false, &[0; 11])),
            &[r#"["1","3","realtime:a","phx_reply",{"status":"error","response":{"error":"payload_size_exceeded"}}]"#],
        );
}

#[test]
fn each_version_is_sent_what_it_can_decode() {
    joined("{}")
        .hear(json("e", "{}"), None, &[r"\x04\n\x01\x00\x01realtime:ae{}"])
        .hear(
            json("e", "{}"),
            Some("x"),
            &[r#"\x04\n\x01\n\x01realtime:ae{\"id\":\"x\"}{}"#],
        )
        .hear(json(&"e".repeat(256), "{}"), None, &[]);
    let binary = || Content::Binary {
        event: "e".into(),
        data: Bytes::from_static(&[7]),
    };
    Conversation::begin(Version::V1)
        .text(
            r#"{"topic":"realtime:a","event":"phx_join","payload":{},"ref":"1"}"#,
            &[r#"{"topic":"realtime:a","event":"phx_reply","payload":{"status":"ok","response":{"postgres_changes":[]}},"ref":"1"}"#],
        )
        .hear(
            json("e", "{}"),
            Some("x"),
            &[r#"{"topic":"realtime:a","event":"broadcast","payload":{"event":"e","payload":{},"type":"broadcast","meta":{"id":"x"}},"ref":null}"#],
        )
        .hear(binary(), None, &[]);
}

#[test]
fn a_room_is_left_however_a_membership_ends() {
    let leave = "room of 1: leave";
    joined("{}").text(
        r#"["1","9","realtime:a","phx_leave",{}]"#,
        &[
            leave,
            r#"["1","9","realtime:a","phx_reply",{"status":"ok","response":{}}]"#,
            r#"["1","1","realtime:a","phx_close",{}]"#,
        ],
    );
    joined("{}").check(Input::Gone, &[leave]);
    joined("{}").text(
        r#"["2","2","realtime:a","phx_join",{"config":{"presence":{"enabled":false}}}]"#,
        &[
            leave,
            r#"["2","2","realtime:a","phx_reply",{"status":"ok","response":{"postgres_changes":[]}}]"#,
            r#"["1","1","realtime:a","phx_close",{}]"#,
            "room of 2: enter for broadcasts presence",
        ],
    );
    joined("{}").text(
        r#"["1","3","realtime:a","access_token",{"access_token":""}]"#,
        &[
            leave,
            r#"["1",null,"realtime:a","system",{"extension":"system","status":"error","message":"The token provided is not a valid JWT","channel":"a"}]"#,
            r#"["1","1","realtime:a","phx_close",{}]"#,
        ],
    );
    // The timer is late, and nobody hears a token that has ended, nor hears it anything.
    let expired = [
        leave,
        r#"["1",null,"realtime:a","system",{"extension":"system","status":"error","message":"Token has expired 0 seconds ago","channel":"a"}]"#,
        r#"["1","1","realtime:a","phx_close",{}]"#,
    ];
    joined("{}").at(3600).hear(json("e", "{}"), None, &expired);
    joined("{}")
        .at(3600)
        .text(r#"["1","3","realtime:a","broadcast",{}]"#, &expired);
}

#[test]
fn what_was_sent_is_counted() {
    let mut conversation = joined("{}");
    conversation
        .hear(json("e", "{}"), None, &[r"\x04\n\x01\x00\x01realtime:ae{}"])
        .hear(json("e", "{}"), None, &[r"\x04\n\x01\x00\x01realtime:ae{}"]);
    assert_eq!(conversation.socket.take_deliveries().broadcasts, 2);
    assert_eq!(conversation.socket.take_deliveries().broadcasts, 0);
}

#[test]
fn replication_is_awaited_after_the_reply() {
    let begin = || {
        let mut conversation = Conversation::in_rooms(Version::V2);
        conversation.text(
            r#"["1","1","realtime:a","phx_join",{"config":{"broadcast":{"replication_ready":true},"presence":{"enabled":true}}}]"#,
            &[
                OK,
                "room of 1: enter for broadcasts presence",
                "await replication 1",
                "room of 1: state",
            ],
        );
        conversation
    };
    begin()
        .notice(
            1,
            Notice::ReplicationReady(true),
            &[r#"["1",null,"realtime:a","system",{"extension":"system","status":"ok","message":"Replication connection established","channel":"a"}]"#],
        )
        .notice(1, Notice::ReplicationReady(true), &[]);
    begin().notice(
        1,
        Notice::ReplicationReady(false),
        &[
            "room of 1: leave",
            r#"["1",null,"realtime:a","system",{"extension":"system","status":"error","message":"Replication connection was not established in time","channel":"a"}]"#,
            r#"["1","1","realtime:a","phx_close",{}]"#,
        ],
    );
    let mut conversation = Conversation::begin(Version::V2);
    conversation
        .text(
            &join_with("1", r#","broadcast":{"replication_ready":true}"#, None),
            &[SUBSCRIBE],
        )
        .notice(
            1,
            Notice::Subscribed,
            &[super::OK, SUBSCRIBED, "await replication 1"],
        )
        .notice(1, Notice::Subscribed, &[SUBSCRIBED]);
}
