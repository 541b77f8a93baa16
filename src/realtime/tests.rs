//! Conversations: what a client and the pipeline say, and what comes back, literally.

mod broadcasts;
mod early;
mod limits;
mod presence;
mod private;
mod random;
mod resume;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{
    Answer, Ask, AskError, Broadcast, Content, Entry, Frame, Input, Limits, Notice, Now, Opening,
    Output, PerSecond, ResyncReason, RoomRequest, Socket, StoredData, Subjects, Version,
};
use crate::auth::{ApiKeys, Grant, Verifier, mint};
use crate::change::Xid;
use crate::topic::Topic;

/// When every conversation begins, in seconds since 1970.
const START: i64 = 1_800_000_000;
const SECRET: &str = "a secret of at least thirty-two bytes";

struct Conversation {
    socket: Socket,
    /// What is done in rooms is looked at as well.
    rooms: bool,
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

    /// One that looks at rooms as well.
    fn in_rooms(version: Version) -> Self {
        Self {
            rooms: true,
            ..Self::begin(version)
        }
    }

    fn with(version: Version, limits: Limits, expires_in: i64) -> Self {
        Self::sharing(&Subjects::new(), version, limits, expires_in)
    }

    fn sharing(
        subjects: &Arc<Subjects>,
        version: Version,
        limits: Limits,
        expires_in: i64,
    ) -> Self {
        let verifier = Arc::new(Verifier::new(Some(SECRET), None, ApiKeys::default()).unwrap());
        let begin = instant();
        let now = Now {
            instant: begin,
            unix: START,
        };
        let own = token("anon", expires_in);
        let claims = verifier.verify(&own, START).unwrap();
        let opening = Opening {
            version,
            limits,
            verifier,
            subjects: Arc::clone(subjects),
            seed: [7; 16],
            token: own.into(),
            claims,
            resume_ignored: false,
        };
        Self {
            socket: Socket::new(now, opening),
            rooms: false,
            begin,
            now,
        }
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
                Output::Room {
                    membership,
                    room,
                    request,
                } => self.rooms.then(|| {
                    let request = show_request(&request);
                    let private = if room.private { "private " } else { "" };
                    format!("{private}room of {membership}: {request}")
                }),
                Output::Ask {
                    membership,
                    ticket,
                    claims,
                    room,
                    ask,
                } => {
                    assert!(room.private, "of public channels nothing is asked");
                    let ask = show_ask(&ask);
                    Some(format!(
                        "ask {membership}.{ticket} as {}: {ask}",
                        claims.role
                    ))
                }
                Output::AwaitReplication { membership } => {
                    Some(format!("await replication {membership}"))
                }
                Output::Send(Frame::SharedText(bytes)) => {
                    Some(String::from_utf8(bytes.to_vec()).unwrap())
                }
                Output::Send(Frame::Binary(bytes)) => Some(bytes.escape_ascii().to_string()),
                Output::Subscribe {
                    membership,
                    claims,
                    bindings,
                    grace,
                    ..
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
                Output::Listen { replays, .. } => Some(format!("listen {replays}")),
                Output::Hear { .. } => Some("hear".into()),
                Output::Heard { cursor, .. } => Some(format!("heard {}", cursor.commit_lsn)),
                Output::Forget { .. } => Some("forget".into()),
                Output::Record(_) | Output::Beat | Output::Park { .. } => None,
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
    fn answer(
        &mut self,
        ticket: u32,
        answer: Result<Answer, AskError>,
        expected: &[&str],
    ) -> &mut Self {
        self.notice(1, Notice::Answered { ticket, answer }, expected)
    }

    /// Somebody else says something in the room of `realtime:a`.
    #[track_caller]
    fn hear(&mut self, content: Content, id: Option<&str>, expected: &[&str]) -> &mut Self {
        let topic = Topic::parse("realtime:a").unwrap();
        let message = Broadcast::new(topic, content, id.map(Into::into));
        self.notice(1, Notice::Broadcast(Arc::new(message)), expected)
    }

    /// Somebody else says something that is stored as the row of this id.
    #[track_caller]
    fn hear_stored(&mut self, id: &str, data: &str, expected: &[&str]) -> &mut Self {
        let topic = Topic::parse("realtime:a").unwrap();
        let message = Broadcast::new(topic, json("e", data), None).stored_as(id.into());
        self.notice(1, Notice::Broadcast(Arc::new(message)), expected)
    }

    /// Is told in this second that policies may have changed, and has a second to ask.
    #[track_caller]
    fn recheck(&mut self, second: u64, expected: &[&str]) -> &mut Self {
        self.at(second)
            .notice(1, Notice::Recheck(Duration::from_secs(1)), &[])
            .at(second + 1)
            .timeout(expected)
    }

    /// Hears a row that this transaction committed.
    #[track_caller]
    fn hear_row(&mut self, transaction: u32, id: &str, expected: &[&str]) -> &mut Self {
        let topic = Topic::parse("realtime:a").unwrap();
        let message = Broadcast::new(topic, json("e", "{}"), Some(id.into()));
        let message = message.committed_by(Xid(transaction));
        self.notice(1, Notice::Broadcast(Arc::new(message)), expected)
    }

    /// Hears a row that committed after permissions had been called into question at this second.
    #[track_caller]
    fn hear_in_doubt(&mut self, second: u64, id: &str, expected: &[&str]) -> &mut Self {
        let doubt = self.begin + Duration::from_secs(second);
        self.hear_since(Some(doubt), id, expected)
    }

    #[track_caller]
    fn hear_since(&mut self, doubt: Option<Instant>, id: &str, expected: &[&str]) -> &mut Self {
        let topic = Topic::parse("realtime:a").unwrap();
        let message = Broadcast::new(topic, json("e", "{}"), Some(id.into()));
        let message = message.committed_by(Xid(1)).in_doubt_since(doubt);
        self.notice(1, Notice::Broadcast(Arc::new(message)), expected)
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

fn show_request(request: &RoomRequest) -> String {
    match request {
        RoomRequest::Enter(Entry { receives, .. }) => {
            let broadcasts = if receives.broadcasts {
                " broadcasts"
            } else {
                ""
            };
            let presence = if receives.presence { " presence" } else { "" };
            format!("enter for{broadcasts}{presence}")
        }
        RoomRequest::Leave => "leave".into(),
        RoomRequest::EnterReplaying(_) => "enter to replay".into(),
        RoomRequest::Say {
            message,
            to_self,
            storing,
        } => {
            let stored = storing.as_ref().map(|storing| storing.id().len());
            assert!(stored.is_none_or(|length| length == 36));
            let all = if *to_self { " to all" } else { "" };
            let frame = match message.frame(Version::V2) {
                Some(Frame::SharedText(bytes)) => String::from_utf8(bytes.to_vec()).unwrap(),
                Some(Frame::Binary(bytes)) => bytes.escape_ascii().to_string(),
                other => panic!("{other:?}"),
            };
            format!("say{all} {frame}")
        }
        RoomRequest::Track { key, payload } => format!("track {key} {}", payload.get()),
        RoomRequest::Untrack => "untrack".into(),
        RoomRequest::State => "state".into(),
    }
}

fn show_ask(ask: &Ask) -> String {
    match ask {
        Ask::Read { presence: false } => "read".into(),
        Ask::Read { presence: true } => "read with presence".into(),
        Ask::Reread { presence: false } => "reread".into(),
        Ask::Reread { presence: true } => "reread with presence".into(),
        Ask::Write(extension) => format!("write {}", extension.as_str()),
        Ask::Replay { since, limit } => format!("replay {limit} since {since}"),
        Ask::Persist {
            event,
            data,
            ttl_seconds,
            ..
        } => match data {
            StoredData::Json(data) => {
                let data = String::from_utf8(data.to_vec()).unwrap();
                format!("persist {event} {data} for {ttl_seconds}")
            }
            StoredData::Binary(data) => {
                format!("persist {event} {} for {ttl_seconds}", data.escape_ascii())
            }
        },
    }
}

fn json(event: &str, data: &str) -> Content {
    Content::Json {
        event: event.into(),
        data: Bytes::copy_from_slice(data.as_bytes()),
    }
}

/// A kind 3 frame to `realtime:a` with join ref 1.
fn kind_3(reference: &str, event: &str, metadata: &str, json: bool, data: &[u8]) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).unwrap();
    let mut frame = vec![
        3,
        1,
        length(reference),
        10,
        length(event),
        length(metadata),
        u8::from(json),
    ];
    for header in ["1", reference, "realtime:a", event, metadata] {
        frame.extend_from_slice(header.as_bytes());
    }
    frame.extend_from_slice(data);
    frame
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

    // Nothing of it stays behind.
    let mut conversation = Conversation::begin(Version::V2);
    conversation
        .text(&join_with("1", "", None), &[SUBSCRIBE])
        .notice(1, refused(), &[OK, error])
        .text(
            r#"["1","2","realtime:a","phx_leave",{}]"#,
            &[
                "unsubscribe 1",
                r#"["1","2","realtime:a","phx_reply",{"status":"ok","response":{}}]"#,
                r#"["1","1","realtime:a","phx_close",{}]"#,
            ],
        );

    Conversation::begin(Version::V2)
        .text(
            &join_with("1", r#","postgres_changes_options":{"wait":true}"#, None),
            &[SUBSCRIBE],
        )
        .notice(
            1,
            Notice::Refused("no".into()),
            &["unsubscribe 1", r#"["1","1","realtime:a","phx_reply",{"status":"error","response":{"reason":"RealtimeDisabledForConfiguration: no"}}]"#],
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
        &join_with("2", r#","broadcast":{"replay":{}}"#, None),
        &[
            "unsubscribe 1",
            r#"["2","2","realtime:a","phx_reply",{"status":"error","response":{"reason":"UnableToReplayMessages: Replay is not allowed for public channels"}}]"#,
            r#"["1","1","realtime:a","phx_close",{}]"#,
        ],
    );
    // The second is refused only later.
    let refused = Answer::Read {
        broadcast: false,
        presence: false,
    };
    joined()
        .text(
            &join_with("2", r#","private":true"#, None),
            &["unsubscribe 1", "ask 2.1 as anon: read with presence"],
        )
        .notice(
            2,
            Notice::Answered {
                ticket: 1,
                answer: Ok(refused),
            },
            &[
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
