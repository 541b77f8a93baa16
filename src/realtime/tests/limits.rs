//! Rates and numbers (protocol.md §8.1).

use super::*;
use crate::realtime::PresenceDiff;

#[test]
fn a_socket_has_a_limit_of_channels_and_of_joins() {
    let limits = Limits {
        channels_max: 1,
        joins: PerSecond {
            socket: 1,
            ..PerSecond::default()
        },
        ..Limits::default()
    };
    let join = |topic: &str| format!(r#"["1","1","realtime:{topic}","phx_join",{{}}]"#);
    let ok = |topic: &str| {
        format!(
            r#"["1","1","realtime:{topic}","phx_reply",{{"status":"ok","response":{{"postgres_changes":[]}}}}]"#
        )
    };
    Conversation::with(Version::V2, limits, 60)
        .text(&join("a"), &[&ok("a")])
        .text(
            &join("b"),
            &[r#"["1","1","realtime:b","phx_reply",{"status":"error","response":{"reason":"ChannelRateLimitReached: Too many channels"}}]"#],
        )
        // A rejoin takes the place of the first; with an equal join ref nothing may be closed.
        .text(&join("a"), &[&ok("a")])
        .text(&join("a"), &[&ok("a")])
        .text(&join("a"), &[&ok("a")])
        .text(
            &join("b"),
            &[
                r#"["1","1","realtime:b","phx_reply",{"status":"error","response":{"reason":"ClientJoinRateLimitReached: Too many joins per second"}}]"#,
                "close 1001 too many joins",
            ],
        )
        .text(&join("a"), &[]);
}

const JOIN: &str = r#"["1","1","realtime:a","phx_join",{"config":{"presence":{"enabled":false}}}]"#;
const TOO_MANY: [&str; 2] = [
    r#"["1",null,"realtime:a","system",{"extension":"system","status":"error","message":"Too many messages per second","channel":"a"}]"#,
    r#"["1","1","realtime:a","phx_close",{}]"#,
];

/// A conversation with `realtime:a` joined.
fn joined(subjects: &Arc<Subjects>, limits: Limits) -> Conversation {
    let mut conversation = Conversation::sharing(subjects, Version::V2, limits, 3600);
    conversation
        .socket
        .handle(conversation.now, Input::Text(JOIN));
    assert_eq!(conversation.outputs().len(), 1);
    conversation
}

fn messages(messages: PerSecond) -> Limits {
    Limits {
        messages,
        ..Limits::default()
    }
}

#[test]
fn a_broadcast_counts_when_it_is_sent_and_when_it_is_delivered() {
    let frame = r"\x04\n\x01\x00\x01realtime:ae{}";
    for limit in [
        PerSecond {
            socket: 1,
            ..PerSecond::default()
        },
        PerSecond {
            channel: 1,
            ..PerSecond::default()
        },
    ] {
        let push = r#"["1","3","realtime:a","broadcast",{}]"#;
        let mut conversation = joined(&Subjects::new(), messages(limit));
        conversation.text(push, &[]).text(push, &[]);
        for _ in 0..3 {
            conversation.hear(json("e", "{}"), None, &[frame]);
        }
        conversation.hear(json("e", "{}"), None, &TOO_MANY);

        let mut conversation = joined(&Subjects::new(), messages(limit));
        for _ in 0..5 {
            conversation.text(push, &[]);
        }
        conversation.text(push, &TOO_MANY);

        // Slowly it may go on for ever.
        let mut conversation = joined(&Subjects::new(), messages(limit));
        for second in 1..100 {
            conversation.at(second).text(push, &[]);
            conversation.at(second + 1);
        }
    }
}

#[test]
fn a_channel_that_is_closed_harms_no_other() {
    let limit = PerSecond {
        channel: 1,
        ..PerSecond::default()
    };
    let mut conversation = joined(&Subjects::new(), messages(limit));
    conversation.text(
        &JOIN.replace("realtime:a", "realtime:b"),
        &[r#"["1","1","realtime:b","phx_reply",{"status":"ok","response":{"postgres_changes":[]}}]"#],
    );
    let push = r#"["1","3","realtime:a","broadcast",{}]"#;
    for _ in 0..5 {
        conversation.text(push, &[]);
    }
    conversation
        .text(push, &TOO_MANY)
        .text(&push.replace("realtime:a", "realtime:b"), &[]);
}

#[test]
fn sockets_of_one_subject_share_its_limits() {
    let user = |subject: &'static str| {
        let grant = Grant {
            role: "authenticated",
            expires_at: START + 3600,
            subject: Some(subject),
            ..Grant::default()
        };
        mint(SECRET, &grant).unwrap()
    };
    let join = |token: &str| {
        format!(r#"["1","1","realtime:a","phx_join",{{"config":{{}},"access_token":"{token}"}}]"#)
    };
    let ok =
        r#"["1","1","realtime:a","phx_reply",{"status":"ok","response":{"postgres_changes":[]}}]"#;
    let per_subject = PerSecond {
        subject: 1,
        ..PerSecond::default()
    };
    let push = r#"["1","3","realtime:a","broadcast",{}]"#;

    let subjects = Subjects::new();
    let mut sockets = ["ann", "ann", "bob"].map(|subject| {
        let mut conversation =
            Conversation::sharing(&subjects, Version::V2, messages(per_subject), 3600);
        conversation.text(&join(&user(subject)), &[ok]);
        conversation
    });
    let [one, other, bob] = &mut sockets;
    for _ in 0..5 {
        one.text(push, &[]);
    }
    other.text(push, &TOO_MANY);
    bob.text(push, &[]);

    let limits = Limits {
        joins: per_subject,
        ..Limits::default()
    };
    let subjects = Subjects::new();
    let begin = || Conversation::sharing(&subjects, Version::V2, limits, 3600);
    let mut sockets: Vec<Conversation> = (0..5).map(|_| begin()).collect();
    for conversation in &mut sockets {
        conversation.text(&join(&user("ann")), &[ok]);
    }
    begin().text(
        &join(&user("ann")),
        &[
            r#"["1","1","realtime:a","phx_reply",{"status":"error","response":{"reason":"ClientJoinRateLimitReached: Too many joins per second"}}]"#,
            "close 1001 too many joins",
        ],
    );
    begin().text(&join(&user("bob")), &[ok]);
}

#[test]
fn presence_events_have_a_limit() {
    let limits = Limits {
        presence_events: PerSecond {
            socket: 1,
            ..PerSecond::default()
        },
        ..Limits::default()
    };
    let mut conversation = joined(&Subjects::new(), limits);
    let topic = Topic::parse("realtime:a").unwrap();
    let diff = || Notice::PresenceDiff(Arc::new(PresenceDiff::new(&topic, "{}".into(), 1)));
    for _ in 0..5 {
        conversation.notice(
            1,
            diff(),
            &[r#"[null,null,"realtime:a","presence_diff",{}]"#],
        );
    }
    conversation.notice(
        1,
        diff(),
        &[
            r#"["1",null,"realtime:a","system",{"extension":"system","status":"error","message":"Too many presence messages per second","channel":"a"}]"#,
            r#"["1","1","realtime:a","phx_close",{}]"#,
        ],
    );
}
