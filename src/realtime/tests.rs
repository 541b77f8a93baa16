//! Conversations: what a client and the pipeline say, and what comes back, literally.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;

use super::{Frame, Input, Limits, Notice, Now, Output, ResyncReason, Socket, Version};
use crate::auth::{ApiKeys, Grant, Verifier, mint};

/// When every conversation begins, in seconds since 1970.
const START: i64 = 1_800_000_000;
const SECRET: &str = "a secret of at least thirty-two bytes";

struct Conversation {
    socket: Socket,
    begin: Instant,
    now: Now,
}

fn token(role: &str, expires_in: i64) -> String {
    let grant = Grant {
        role,
        expires_at: START + expires_in,
        ..Grant::default()
    };
    mint(SECRET, &grant).unwrap()
}

#[expect(
    clippy::disallowed_methods,
    reason = "an instant to count from, nothing waits"
)]
fn instant() -> Instant {
    Instant::now()
}

impl Conversation {
    fn begin(version: Version) -> Self {
        Self::with(version, Limits::default(), 3600)
    }

    fn with(version: Version, limits: Limits, expires_in: i64) -> Self {
        let verifier = Arc::new(Verifier::new(Some(SECRET), None, ApiKeys::default()).unwrap());
        let begin = instant();
        let now = Now {
            instant: begin,
            unix: START,
        };
        let own = token("anon", expires_in);
        let claims = verifier.verify(&own, START).unwrap();
        let socket = Socket::new(now, version, limits, verifier, (own.into(), claims));
        Self { socket, begin, now }
    }

    /// Seconds since the beginning.
    fn at(&mut self, seconds: u64) -> &mut Self {
        self.now = Now {
            instant: self.begin + Duration::from_secs(seconds),
            unix: START + i64::try_from(seconds).unwrap(),
        };
        self
    }

    fn outputs(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.socket.poll_output())
            .filter_map(|output| match output {
                Output::Send(Frame::Text(text)) => Some(text),
                Output::Room { .. } | Output::Ask { .. } | Output::AwaitReplication { .. } => None,
                Output::Send(Frame::SharedText(bytes)) => {
                    Some(String::from_utf8(bytes.to_vec()).unwrap())
                }
                Output::Send(Frame::Binary(_)) => panic!("nothing is sent as binary yet"),
                Output::Subscribe {
                    membership,
                    claims,
                    bindings,
                    grace,
                } => Some(format!(
                    "subscribe {membership} as {} to {}{}",
                    claims.role,
                    bindings
                        .iter()
                        .map(|binding| binding.json.get())
                        .collect::<Vec<_>>()
                        .join(" "),
                    if grace { " with grace" } else { "" }
                )),
                Output::Identify { membership, claims } => {
                    Some(format!("identify {membership} as {}", claims.role))
                }
                Output::Unsubscribe { membership } => Some(format!("unsubscribe {membership}")),
                Output::Close { code, reason } => Some(format!("close {code} {reason}")),
                Output::Record(_) => None,
            })
            .collect()
    }

    #[track_caller]
    fn expect(&mut self, expected: &[&str]) -> &mut Self {
        let seen = self.outputs();
        assert_eq!(seen, expected, "\nseen: {seen:#?}\nexpected: {expected:#?}");
        self
    }

    #[track_caller]
    fn check(&mut self, input: Input<'_>, expected: &[&str]) -> &mut Self {
        self.socket.handle(self.now, input);
        self.expect(expected)
    }

    #[track_caller]
    fn text(&mut self, text: &str, expected: &[&str]) -> &mut Self {
        self.check(Input::Text(text), expected)
    }

    #[track_caller]
    fn notice(&mut self, membership: u32, notice: Notice, expected: &[&str]) -> &mut Self {
        self.check(Input::Notice { membership, notice }, expected)
    }

    #[track_caller]
    fn changes(&mut self, membership: u32, payloads: &[&'static str], expected: &[&str]) {
        let payloads: Vec<Bytes> = payloads.iter().map(|text| Bytes::from(*text)).collect();
        let input = Input::Changes {
            membership,
            ids: "[7]",
            payloads: &payloads,
            last: true,
        };
        self.check(input, expected);
    }

    #[track_caller]
    fn timeout(&mut self, expected: &[&str]) -> &mut Self {
        self.socket.handle_timeout(self.now);
        self.expect(expected)
    }
}

/// A version 2 join with one binding and this token.
fn join_with(join_ref: &str, options: &str, token: Option<&str>) -> String {
    let token = token.map_or(String::new(), |token| {
        format!(r#","access_token":"{token}""#)
    });
    format!(
        r#"["{join_ref}","{join_ref}","realtime:a","phx_join",{{"config":{{"postgres_changes":[{{"event":"*","schema":"public","table":"t"}}]{options}}}{token}}}]"#
    )
}

const SUBSCRIBE: &str =
    r#"subscribe 1 as anon to {"event":"*","schema":"public","table":"t"} with grace"#;
const OK: &str = r#"["1","1","realtime:a","phx_reply",{"status":"ok","response":{"postgres_changes":[{"id":120194374,"event":"*","schema":"public","table":"t"}]}}]"#;
const SUBSCRIBED: &str = r#"["1",null,"realtime:a","system",{"extension":"postgres_changes","status":"ok","message":"Subscribed to PostgreSQL","channel":"a"}]"#;

fn joined() -> Conversation {
    let mut conversation = Conversation::begin(Version::V2);
    conversation
        .text(&join_with("1", "", None), &[SUBSCRIBE])
        .notice(1, Notice::Subscribed, &[OK, SUBSCRIBED]);
    conversation
}

#[test]
fn heartbeats_are_answered_in_both_versions() {
    Conversation::begin(Version::V2).text(
        r#"[null,"5","phoenix","heartbeat",{}]"#,
        &[r#"[null,"5","phoenix","phx_reply",{"status":"ok","response":{}}]"#],
    );
    Conversation::begin(Version::V1).text(
        r#"{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"5"}"#,
        &[r#"{"topic":"phoenix","event":"phx_reply","payload":{"status":"ok","response":{}},"ref":"5"}"#],
    );
}

#[test]
fn a_channel_without_bindings_from_join_to_leave() {
    Conversation::begin(Version::V2)
        .text(
            r#"["1","1","realtime:room1","phx_join",{"config":{"broadcast":{"self":true},"presence":{"key":"","enabled":true},"private":false}}]"#,
            &[r#"["1","1","realtime:room1","phx_reply",{"status":"ok","response":{"postgres_changes":[]}}]"#],
        )
        .text(r#"["1","2","realtime:room1","unheard_of",{}]"#, &[])
        .text(r#"["0","8","realtime:room1","phx_leave",{}]"#, &[])
        .text(
            r#"["1","9","realtime:room1","phx_leave",{}]"#,
            &[
                r#"["1","9","realtime:room1","phx_reply",{"status":"ok","response":{}}]"#,
                r#"["1","1","realtime:room1","phx_close",{}]"#,
            ],
        )
        .text(
            r#"["1","10","realtime:room1","phx_leave",{}]"#,
            &[r#"["1","10","realtime:room1","phx_reply",{"status":"ok","response":{}}]"#],
        );
}

#[test]
fn the_same_in_version_1() {
    Conversation::begin(Version::V1)
        .text(
            r#"{"topic":"realtime:room1","event":"phx_join","payload":{"config":{}},"ref":"1","join_ref":"1"}"#,
            &[r#"{"topic":"realtime:room1","event":"phx_reply","payload":{"status":"ok","response":{"postgres_changes":[]}},"ref":"1"}"#],
        )
        .text(
            r#"{"topic":"realtime:room1","event":"phx_leave","payload":{},"ref":"9"}"#,
            &[
                r#"{"topic":"realtime:room1","event":"phx_reply","payload":{"status":"ok","response":{}},"ref":"9"}"#,
                r#"{"topic":"realtime:room1","event":"phx_close","payload":{},"ref":"1"}"#,
            ],
        );
}

#[test]
fn topics_that_are_not_joined() {
    let unmatched = r#"[null,"2","realtime:a","phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]"#;
    Conversation::begin(Version::V2)
        .text(r#"["1","2","realtime:a","broadcast",{}]"#, &[unmatched])
        .text(r#"["1","2","realtime:a","access_token",{}]"#, &[unmatched])
        .text(
            r#"["1","1","room","phx_join",{}]"#,
            &[r#"[null,"1","room","phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]"#],
        )
        .text(
            r#"["1","1","realtime:","phx_join",{}]"#,
            &[r#"["1","1","realtime:","phx_reply",{"status":"error","response":{"reason":"TopicNameRequired: You must provide a topic name"}}]"#],
        )
        .text("nonsense", &[])
        .text("[]", &[])
        .check(Input::Binary(&[3, 255]), &[]);
}

#[test]
fn the_reply_waits_for_the_bindings() {
    let mut conversation = joined();
    conversation.changes(
        1,
        &[r#"{"n":1}"#, r#"{"n":2}"#],
        &[
            r#"[null,null,"realtime:a","postgres_changes",{"ids":[7],"data":{"n":1}}]"#,
            r#"[null,null,"realtime:a","postgres_changes",{"ids":[7],"last":true,"data":{"n":2}}]"#,
        ],
    );
    // The set of tables changed.
    conversation.notice(1, Notice::Subscribed, &[SUBSCRIBED]);
    conversation
        .text(
            r#"["1","9","realtime:a","phx_leave",{}]"#,
            &[
                "unsubscribe 1",
                r#"["1","9","realtime:a","phx_reply",{"status":"ok","response":{}}]"#,
                r#"["1","1","realtime:a","phx_close",{}]"#,
            ],
        )
        .changes(1, &["{}"], &[]);
}

#[test]
fn bad_bindings_leave_the_channel_joined() {
    let error = r#"["1",null,"realtime:a","system",{"extension":"postgres_changes","status":"error","message":"Error parsing `filter` params: [\"undefined\"]","channel":"a"}]"#;
    let refused = || Notice::Refused(r#"Error parsing `filter` params: ["undefined"]"#.into());
    let mut conversation = Conversation::begin(Version::V2);
    conversation
        .text(&join_with("1", "", None), &[SUBSCRIBE])
        .notice(1, refused(), &[OK, error]);
    conversation.changes(1, &["{}"], &[]);
    // A new token asks again: what anon may not, its user may.
    let user = token("authenticated", 600);
    conversation
        .text(
            &format!(r#"["1","3","realtime:a","access_token",{{"access_token":"{user}"}}]"#),
            &[r#"subscribe 1 as authenticated to {"event":"*","schema":"public","table":"t"}"#],
        )
        .notice(1, Notice::Subscribed, &[SUBSCRIBED]);

    Conversation::begin(Version::V2)
        .text(
            &join_with("1", r#","postgres_changes_options":{"wait":true}"#, None),
            &[SUBSCRIBE],
        )
        .notice(
            1,
            Notice::Refused("no".into()),
            &[r#"["1","1","realtime:a","phx_reply",{"status":"error","response":{"reason":"RealtimeDisabledForConfiguration: no"}}]"#],
        )
        .notice(1, Notice::Subscribed, &[]);
}

#[test]
fn a_refusal_of_the_old_identity_does_not_count_against_the_new() {
    let user = token("authenticated", 600);
    Conversation::begin(Version::V2)
        .text(&join_with("1", "", None), &[SUBSCRIBE])
        .text(
            &format!(r#"["1","3","realtime:a","access_token",{{"access_token":"{user}"}}]"#),
            &["identify 1 as authenticated"],
        )
        .notice(
            1,
            Notice::Refused("not for anon".into()),
            &[r#"subscribe 1 as authenticated to {"event":"*","schema":"public","table":"t"}"#],
        )
        .notice(1, Notice::Subscribed, &[OK, SUBSCRIBED]);
}

#[test]
fn a_join_is_not_left_unanswered() {
    Conversation::begin(Version::V2)
        .text(&join_with("1", "", None), &[SUBSCRIBE])
        .at(7)
        .timeout(&[])
        .text(
            r#"[null,"5","phoenix","heartbeat",{}]"#,
            &[r#"[null,"5","phoenix","phx_reply",{"status":"ok","response":{}}]"#],
        )
        .at(8)
        .timeout(&[
            "unsubscribe 1",
            r#"["1","1","realtime:a","phx_reply",{"status":"error","response":{"reason":"InitializingProjectConnection: Realtime is initializing the project connection"}}]"#,
        ])
        .notice(1, Notice::Subscribed, &[]);

    let options = r#","postgres_changes_options":{"wait":true,"timeout":60000}"#;
    Conversation::begin(Version::V2)
        .text(&join_with("1", options, None), &[SUBSCRIBE])
        .at(19)
        .timeout(&[])
        .at(20)
        .timeout(&[
            "unsubscribe 1",
            r#"["1","1","realtime:a","phx_reply",{"status":"error","response":{"reason":"PostgresChangesSubscribeTimeout: Timed out after 20000ms waiting for the postgres_changes subscription"}}]"#,
        ]);
}

#[test]
fn a_second_join_ends_the_first_after_its_own_reply() {
    let mut conversation = joined();
    conversation
        .text(
            &join_with("2", "", None),
            &["unsubscribe 1", &SUBSCRIBE.replace("1", "2")],
        )
        .notice(1, Notice::Subscribed, &[])
        .text(r#"["1","3","realtime:a","phx_leave",{}]"#, &[])
        .notice(
            2,
            Notice::Subscribed,
            &[
                &OK.replacen(r#""1","1""#, r#""2","2""#, 1),
                r#"["1","1","realtime:a","phx_close",{}]"#,
                &SUBSCRIBED.replacen(r#""1""#, r#""2""#, 1),
            ],
        );
}

#[test]
fn a_second_join_while_the_first_is_pending_answers_both() {
    let superseded = r#"["1","1","realtime:a","phx_reply",{"status":"error","response":{"reason":"UnknownErrorOnChannel: joined again before this join was answered"}}]"#;
    Conversation::begin(Version::V2)
        .text(&join_with("1", "", None), &[SUBSCRIBE])
        .text(
            &join_with("2", "", None),
            &["unsubscribe 1", superseded, &SUBSCRIBE.replace("1", "2")],
        )
        .notice(1, Notice::Subscribed, &[])
        .text(
            r#"["2","3","realtime:a","phx_leave",{}]"#,
            &[
                "unsubscribe 2",
                r#"["2","2","realtime:a","phx_reply",{"status":"error","response":{"reason":"UnknownErrorOnChannel: left before the join was answered"}}]"#,
                r#"["2","3","realtime:a","phx_reply",{"status":"ok","response":{}}]"#,
            ],
        );
}

#[test]
fn a_refused_second_join_still_ends_the_first() {
    joined().text(
        &join_with("2", r#","private":true"#, None),
        &[
            "unsubscribe 1",
            r#"["2","2","realtime:a","phx_reply",{"status":"error","response":{"reason":"Unauthorized: You do not have permissions to read from this Channel topic: a"}}]"#,
            r#"["1","1","realtime:a","phx_close",{}]"#,
        ],
    );
}

#[test]
fn joins_are_refused_with_the_reason() {
    let check = |payload: &str, reason: &str| {
        Conversation::begin(Version::V2).text(
            &format!(r#"["1","1","realtime:a:b","phx_join",{payload}]"#),
            &[&format!(
                r#"["1","1","realtime:a:b","phx_reply",{{"status":"error","response":{{"reason":"{reason}"}}}}]"#
            )],
        );
    };
    check(
        r#"{"config":[]}"#,
        "UnknownErrorOnChannel: config must be an object",
    );
    check(
        r#"{"config":{"private":true}}"#,
        "Unauthorized: You do not have permissions to read from this Channel topic: a:b",
    );
    check(
        r#"{"config":{"broadcast":{"replay":null}}}"#,
        "UnableToReplayMessages: Replay is not allowed for public channels",
    );
    check(
        r#"{"config":{},"access_token":"nonsense"}"#,
        "MalformedJWT: The token provided is not a valid JWT",
    );
    let late = token("anon", -5);
    check(
        &format!(r#"{{"access_token":"{late}"}}"#),
        "InvalidJWTToken: Token has expired 5 seconds ago",
    );
}

#[test]
fn a_socket_has_a_limit_of_channels_and_of_joins() {
    let limits = Limits {
        channels_max: 1,
        joins_max: 3,
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
        .text(
            &join("b"),
            &[
                r#"["1","1","realtime:b","phx_reply",{"status":"error","response":{"reason":"ClientJoinRateLimitReached: Too many joins per second"}}]"#,
                "close 1001 too many joins",
            ],
        )
        .text(&join("a"), &[]);
}

#[test]
fn token_refreshes_are_verified_and_throttled() {
    let refresh = |token: &str| {
        format!(r#"[null,"3","realtime:a","access_token",{{"access_token":"{token}"}}]"#)
    };
    let (first, second, third) = (token("first", 60), token("second", 60), token("third", 60));
    let mut conversation = joined();
    conversation
        .text(&refresh(&token("anon", 3600)), &[])
        .text(&refresh("sb_publishable_x"), &[])
        .text(r#"["1","3","realtime:a","access_token",{"access_token":null}]"#, &[])
        .text(r#"["1","3","realtime:a","access_token",{}]"#, &[])
        .text(r#"["1","3","realtime:a","access_token",null]"#, &[])
        .text(&refresh(&first), &["identify 1 as first"])
        .notice(1, Notice::Subscribed, &[SUBSCRIBED])
        .at(3)
        .text(&refresh(&second), &[])
        .at(5)
        .text(&refresh(&third), &[])
        .timeout(&[])
        .at(10)
        .timeout(&["identify 1 as third"])
        .at(12)
        .text(&refresh(&second), &[])
        .text(&refresh(&third), &[])
        .at(20)
        .timeout(&[])
        .text(
            &refresh(""),
            &[
                "unsubscribe 1",
                r#"["1",null,"realtime:a","system",{"extension":"system","status":"error","message":"The token provided is not a valid JWT","channel":"a"}]"#,
                r#"["1","1","realtime:a","phx_close",{}]"#,
            ],
        );
}

#[test]
fn an_expired_token_closes_its_channel_and_nothing_else() {
    let closed = |seconds: u64| {
        format!(
            r#"["1",null,"realtime:a","system",{{"extension":"system","status":"error","message":"Token has expired {seconds} seconds ago","channel":"a"}}]"#
        )
    };
    let close = r#"["1","1","realtime:a","phx_close",{}]"#;
    let limits = Limits {
        idle_timeout: Duration::from_secs(10_000),
        ..Limits::default()
    };
    let join = |conversation: &mut Conversation, expires_in| {
        let token = token("anon", expires_in);
        conversation
            .text(
                &join_with("1", "", Some(&token)),
                &[&SUBSCRIBE.replace(" with grace", "")],
            )
            .notice(1, Notice::Subscribed, &[OK, SUBSCRIBED]);
    };
    let mut conversation = Conversation::with(Version::V2, limits, 9000);
    join(&mut conversation, 500);
    for step in [300, 499] {
        conversation.at(step).timeout(&[]);
    }
    let at_expiry = conversation.begin + Duration::from_secs(500);
    assert_eq!(conversation.socket.next_timeout(), Some(at_expiry));
    conversation
        .at(500)
        .timeout(&["unsubscribe 1", &closed(0), close])
        .text(
            r#"[null,"5","phoenix","heartbeat",{}]"#,
            &[r#"[null,"5","phoenix","phx_reply",{"status":"ok","response":{}}]"#],
        );

    // The timer is late: no row goes out.
    let mut conversation = Conversation::with(Version::V2, limits, 9000);
    join(&mut conversation, 500);
    conversation
        .at(502)
        .changes(1, &["{}"], &["unsubscribe 1", &closed(2), close]);

    // A held refresh takes over at the expiry, before its window ends.
    let mut conversation = Conversation::with(Version::V2, limits, 9000);
    join(&mut conversation, 100);
    let refresh = |token: String| {
        format!(r#"["1","3","realtime:a","access_token",{{"access_token":"{token}"}}]"#)
    };
    conversation
        .at(95)
        .text(&refresh(token("anon", 101)), &["identify 1 as anon"])
        .text(&refresh(token("next", 900)), &[])
        .at(101)
        .timeout(&["identify 1 as next"]);
}

#[test]
fn a_join_without_token_needs_the_connections_to_be_valid_still() {
    let mut conversation = Conversation::with(Version::V2, Limits::default(), 5);
    conversation.at(6).text(
        r#"["1","1","realtime:a","phx_join",{"access_token":"sb_secret_x"}]"#,
        &[r#"["1","1","realtime:a","phx_reply",{"status":"error","response":{"reason":"InvalidJWTToken: Token has expired 1 seconds ago"}}]"#],
    );
}

#[test]
fn resynchronise_is_retried_by_the_client() {
    joined().notice(
        1,
        Notice::Resync(ResyncReason::SlotRecreated),
        &[
            r#"["1",null,"realtime:a","system",{"extension":"postgres_changes","status":"error","message":"Resync required: replication slot was recreated","channel":"a"}]"#,
            r#"["1","1","realtime:a","phx_error",{}]"#,
        ],
    );
    Conversation::begin(Version::V2)
        .text(&join_with("1", "", None), &[SUBSCRIBE])
        .notice(
            1,
            Notice::Resync(ResyncReason::FailedOver),
            &[r#"["1","1","realtime:a","phx_reply",{"status":"error","response":{"reason":"InitializingProjectConnection: Realtime is initializing the project connection"}}]"#],
        );
}

#[test]
fn policy_trouble_is_told_after_the_reply() {
    let trouble = r#"["1",null,"realtime:a","system",{"extension":"postgres_changes","status":"error","message":"Row-level security check failed (57014)","channel":"a"}]"#;
    joined().notice(1, Notice::PolicyTrouble("57014".into()), &[trouble]);
    Conversation::begin(Version::V2)
        .text(&join_with("1", "", None), &[SUBSCRIBE])
        .notice(1, Notice::PolicyTrouble("57014".into()), &[])
        .notice(1, Notice::Subscribed, &[OK, SUBSCRIBED, trouble]);
}

#[test]
fn what_is_not_supported_yet_says_so() {
    Conversation::begin(Version::V2)
        .text(
            r#"["1","1","realtime:a","phx_join",{"config":{"broadcast":{"ack":true}}}]"#,
            &[r#"["1","1","realtime:a","phx_reply",{"status":"ok","response":{"postgres_changes":[]}}]"#],
        )
        .check(
            Input::Binary(b"\x03\x01\x01\x0a\x01\x00\x0113realtime:ae{}"),
            &[r#"["1","3","realtime:a","phx_reply",{"status":"error","response":{"reason":"Broadcast is not supported yet"}}]"#],
        )
        .text(
            r#"[null,"4","realtime:a","presence",{"type":"presence","event":"track"}]"#,
            &[r#"["1","4","realtime:a","phx_reply",{"status":"error","response":{"reason":"Presence is not supported yet"}}]"#],
        );
    joined().text(r#"["1","3","realtime:a","broadcast",{}]"#, &[]);
}

#[test]
fn a_leaving_server_closes_no_channel() {
    let mut conversation = joined();
    conversation
        .text(
            &join_with("2", "", None).replace("realtime:a", "realtime:b"),
            &[&SUBSCRIBE.replace("1", "2")],
        )
        .check(
            Input::Drain,
            &[
                r#"[null,null,"realtime:a","system",{"extension":"system","status":"ok","message":"Server requested disconnect"}]"#,
                r#"["2","2","realtime:b","phx_reply",{"status":"error","response":{"reason":"RealtimeRestarting: Realtime is restarting, please standby"}}]"#,
                "close 1012 server is restarting",
            ],
        )
        .changes(1, &["{}"], &[]);
    conversation.check(Input::Gone, &["unsubscribe 1", "unsubscribe 2"]);
    conversation.check(Input::Gone, &[]);
}

#[test]
fn silence_is_closed_after_a_minute() {
    let mut conversation = Conversation::begin(Version::V2);
    conversation.at(59).timeout(&[]);
    conversation.check(Input::Control, &[]);
    conversation.at(118).timeout(&[]);
    conversation.at(119).timeout(&["close 1000 idle"]);
    assert_eq!(conversation.socket.next_timeout(), None);
}

/// What a random client and pipeline may do.
#[derive(Clone, Debug)]
enum Step {
    Text(String),
    Binary(Vec<u8>),
    Join {
        topic: u8,
        join_ref: u8,
        bindings: bool,
        wait: bool,
    },
    Leave {
        topic: u8,
        join_ref: u8,
    },
    Notice {
        membership: u32,
        which: u8,
    },
    Changes {
        membership: u32,
    },
    Wait(u64),
    Drain,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        ".{0,60}".prop_map(Step::Text),
        r#"\[("1"|null),"2","(realtime:)?[ab]?","(phx_join|phx_leave|access_token|presence)",(\{\}|\[\]|null)\]"#.prop_map(Step::Text),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(Step::Binary),
        (0..3u8, 0..9u8, any::<bool>(), any::<bool>()).prop_map(|(topic, join_ref, bindings, wait)| {
            Step::Join { topic, join_ref, bindings, wait }
        }),
        (0..3u8, 0..9u8).prop_map(|(topic, join_ref)| Step::Leave { topic, join_ref }),
        (1..9u32, 0..4u8).prop_map(|(membership, which)| Step::Notice { membership, which }),
        (1..9u32).prop_map(|membership| Step::Changes { membership }),
        (0..12u64).prop_map(Step::Wait),
        Just(Step::Drain),
    ]
}

fn perform(conversation: &mut Conversation, step: &Step) {
    let now = conversation.now;
    let socket = &mut conversation.socket;
    match step {
        Step::Text(text) => socket.handle(now, Input::Text(text)),
        Step::Binary(bytes) => socket.handle(now, Input::Binary(bytes)),
        Step::Join {
            topic,
            join_ref,
            bindings,
            wait,
        } => {
            let bindings = if *bindings { "{}" } else { "" };
            let text = format!(
                r#"["{join_ref}","{join_ref}","realtime:{topic}","phx_join",{{"config":{{"postgres_changes":[{bindings}],"postgres_changes_options":{{"wait":{wait}}}}}}}]"#
            );
            socket.handle(now, Input::Text(&text));
        }
        Step::Leave { topic, join_ref } => {
            let text = format!(r#"["{join_ref}","77","realtime:{topic}","phx_leave",{{}}]"#);
            socket.handle(now, Input::Text(&text));
        }
        Step::Notice { membership, which } => {
            let notice = match which {
                0 => Notice::Subscribed,
                1 => Notice::Refused("no".into()),
                2 => Notice::Resync(ResyncReason::PositionGone),
                _ => Notice::PolicyTrouble("57014".into()),
            };
            socket.handle(
                now,
                Input::Notice {
                    membership: *membership,
                    notice,
                },
            );
        }
        Step::Changes { membership } => {
            let payloads = [Bytes::from_static(b"{}")];
            socket.handle(
                now,
                Input::Changes {
                    membership: *membership,
                    ids: "[1]",
                    payloads: &payloads,
                    last: false,
                },
            );
        }
        Step::Wait(seconds) => {
            let passed = now.instant - conversation.begin;
            conversation.at(passed.as_secs() + seconds);
            conversation.socket.handle_timeout(conversation.now);
        }
        Step::Drain => socket.handle(now, Input::Drain),
    }
}

proptest! {
    /// Of a topic nothing but replies and closes goes out while no join of it has been answered with ok.
    #[test]
    fn nothing_precedes_a_join_reply(steps in proptest::collection::vec(step(), 0..60)) {
        let mut conversation = Conversation::begin(Version::V2);
        let mut open: std::collections::BTreeSet<String> = std::collections::BTreeSet::new();
        let mut closed = false;
        for step in &steps {
            perform(&mut conversation, step);
            while let Some(output) = conversation.socket.poll_output() {
                match output {
                    Output::Send(Frame::Text(text)) => {
                        prop_assert!(!closed, "a frame after the close: {text}");
                        let frame: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
                        let topic = frame[2].as_str().unwrap().to_owned();
                        let accepted = frame[4]["response"]["postgres_changes"].is_array();
                        match frame[3].as_str().unwrap() {
                            "phx_reply" if accepted => { open.insert(topic); }
                            "phx_reply" => {}
                            "phx_close" => {}
                            _ => prop_assert!(open.contains(&topic), "too early: {text}"),
                        }
                    }
                    Output::Close { .. } => closed = true,
                    _ => {}
                }
            }
        }
    }

    /// Every subscription ends, and only what was asked for ends. What the pipeline ended itself may end twice.
    #[test]
    fn the_pipeline_is_told_of_every_end(steps in proptest::collection::vec(step(), 0..60)) {
        let mut conversation = Conversation::begin(Version::V2);
        // Memberships that the pipeline holds: it forgets those that it refuses or resynchronises itself.
        let mut held: std::collections::BTreeSet<u32> = std::collections::BTreeSet::new();
        let mut asked: std::collections::BTreeSet<u32> = std::collections::BTreeSet::new();
        let mut steps = steps;
        steps.push(Step::Drain);
        for step in &steps {
            if let Step::Notice { membership, which } = step {
                let ends = matches!(which, 1 | 2);
                if !held.contains(membership) || (ends && !held.remove(membership)) {
                    continue;
                }
            }
            perform(&mut conversation, step);
            while let Some(output) = conversation.socket.poll_output() {
                match output {
                    Output::Subscribe { membership, .. } => {
                        prop_assert!(held.insert(membership));
                        asked.insert(membership);
                    }
                    Output::Unsubscribe { membership } => {
                        held.remove(&membership);
                        prop_assert!(asked.contains(&membership));
                    }
                    _ => {}
                }
            }
        }
        conversation.socket.handle(conversation.now, Input::Gone);
        while let Some(output) = conversation.socket.poll_output() {
            if let Output::Unsubscribe { membership } = output {
                held.remove(&membership);
                prop_assert!(asked.contains(&membership));
            }
        }
        prop_assert!(held.is_empty());
    }

    #[test]
    fn any_bytes_are_survived(data in proptest::collection::vec(any::<u8>(), 0..300)) {
        super::exercise(instant(), &data);
    }
}
