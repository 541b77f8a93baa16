//! Anything in any order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;
use serde_json::value::RawValue;

use super::*;
use crate::realtime::{PresenceDiff, PresenceState, Stored, exercise, exercise_broadcast};

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
    /// A broadcast that is to be stored, or a presence call.
    Push {
        topic: u8,
        which: u8,
    },
    /// A private join, with a replay or not.
    Private {
        topic: u8,
        join_ref: u8,
        replay: bool,
    },
    /// The answer to the oldest question that is open.
    Answer {
        which: u8,
    },
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
        (1..9u32, 0..9u8).prop_map(|(membership, which)| Step::Notice { membership, which }),
        (1..9u32).prop_map(|membership| Step::Changes { membership }),
        (0..12u64).prop_map(Step::Wait),
        Just(Step::Drain),
        (0..3u8, 0..3u8).prop_map(|(topic, which)| Step::Push { topic, which }),
        (0..3u8, 0..9u8, any::<bool>()).prop_map(|(topic, join_ref, replay)| {
            Step::Private { topic, join_ref, replay }
        }),
        any::<u8>().prop_map(|which| Step::Answer { which }),
    ]
}

/// A frame that a client may send on one of two topics.
fn push() -> impl Strategy<Value = Vec<u8>> {
    let binary = (
        "[0-9]?",
        "[a-z]{0,2}",
        r#"(|\{"persist":(true|\{"ttl":[0-9]\})\})"#,
        any::<bool>(),
        "(\\{\\}|[0-9]|x)",
    );
    prop_oneof![
        r#"\["1","1","realtime:[ab]","phx_join",\{"config":\{"private":(true|false),"broadcast":\{"ack":true,"self":true(|,"replay":\{\}|,"replication_ready":true)\}(|,"postgres_changes":\[\{\}\])\}\}\]"#.prop_map(String::into_bytes),
        r#"\["1","2","realtime:[ab]","(broadcast|presence|phx_leave|access_token)",\{"event":"(track|untrack|e)"(|,"payload":(\{\}|\[\]))\}\]"#.prop_map(String::into_bytes),
        binary.prop_map(|(reference, event, metadata, json, data)| {
            kind_3(&reference, &event, &metadata, json, data.as_bytes())
        }),
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
                3 => Notice::PolicyTrouble("57014".into()),
                4 => Notice::Recheck(Duration::from_secs(1)),
                5 => Notice::ReplicationReady(false),
                6 => Notice::PresenceState(PresenceState("{}".into())),
                7 => {
                    let topic = Topic::parse("realtime:1").unwrap();
                    let diff = PresenceDiff::new(&topic, "{}".into(), 1);
                    Notice::PresenceDiff(Arc::new(diff))
                }
                _ => {
                    let topic = Topic::parse("realtime:1").unwrap();
                    let content = Content::Object(RawValue::from_string("{}".into()).unwrap());
                    let message = Broadcast::new(topic, content, Some("x".into()));
                    Notice::Broadcast(Arc::new(message))
                }
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
        Step::Push { topic, which } => {
            let text = match which {
                0 => format!(r#"[null,"77","realtime:{topic}","broadcast",{{}}]"#),
                1 => format!(r#"[null,"77","realtime:{topic}","presence",{{"event":"track"}}]"#),
                _ => {
                    let mut frame = kind_3("77", "e", r#"{"persist":true}"#, true, b"{}");
                    // Its topic is one byte too long for this.
                    if let Some(place) = frame.windows(10).position(|topic| topic == b"realtime:a")
                    {
                        frame[place + 9] = b'0' + topic;
                    }
                    socket.handle(now, Input::Binary(&frame));
                    return;
                }
            };
            socket.handle(now, Input::Text(&text));
        }
        Step::Private {
            topic,
            join_ref,
            replay,
        } => {
            let replay = if *replay { r#""replay":{}"# } else { "" };
            let text = format!(
                r#"["{join_ref}","{join_ref}","realtime:{topic}","phx_join",{{"config":{{"private":true,"broadcast":{{"ack":true,{replay}}}}}}}]"#
            )
            .replace(",}", "}");
            socket.handle(now, Input::Text(&text));
        }
        // Whoever keeps the questions answers.
        Step::Answer { .. } => {}
    }
}

/// Questions that are open, oldest first.
#[derive(Default)]
struct Questions(VecDeque<(u32, u32, Ask)>);

impl Questions {
    fn answer(&mut self, conversation: &mut Conversation, step: &Step) {
        let Step::Answer { which } = step else {
            return;
        };
        let Some((membership, ticket, ask)) = self.0.pop_front() else {
            return;
        };
        let yes = which % 4 > 0;
        let answer = match ask {
            _ if *which % 16 == 5 => Err(AskError::Unreachable),
            _ if *which % 16 == 9 => Err(AskError::Policy("x".into())),
            Ask::Read { presence } | Ask::Reread { presence } => Ok(Answer::Read {
                broadcast: yes,
                presence: presence && which % 3 > 0,
            }),
            Ask::Write(_) => Ok(Answer::Write(yes)),
            Ask::Replay { .. } => Ok(Answer::Replayed {
                stored: vec![Stored {
                    id: "x".into(),
                    event: "e".into(),
                    data: StoredData::Json(Bytes::from_static(b"{}")),
                }],
                snapshot: None,
            }),
            Ask::Persist { .. } => Ok(Answer::Persisted(yes.then(|| "y".into()))),
        };
        let notice = Notice::Answered { ticket, answer };
        conversation
            .socket
            .handle(conversation.now, Input::Notice { membership, notice });
    }

    fn put(&mut self, output: &Output) {
        if let Output::Ask {
            membership,
            ticket,
            ask,
            ..
        } = output
        {
            self.0.push_back((*membership, *ticket, ask.clone()));
        }
    }
}

proptest! {
    /// Of a topic nothing but replies and closes goes out while no join of it has been answered with ok.
    #[test]
    fn nothing_precedes_a_join_reply(steps in proptest::collection::vec(step(), 0..60)) {
        let mut conversation = Conversation::begin(Version::V2);
        let mut open: BTreeSet<String> = BTreeSet::new();
        let mut closed = false;
        let mut questions = Questions::default();
        for step in &steps {
            perform(&mut conversation, step);
            questions.answer(&mut conversation, step);
            while let Some(output) = conversation.socket.poll_output() {
                questions.put(&output);
                match output {
                    Output::Send(Frame::Binary(frame)) => {
                        prop_assert!(!closed && frame[0] == 4);
                        let topic = String::from_utf8(frame[5..5 + usize::from(frame[1])].to_vec());
                        // Ours are all of topic 1, whoever they are given to.
                        prop_assert_eq!(topic.unwrap(), "realtime:1");
                    }
                    Output::Send(frame) => {
                        let text = match frame {
                            Frame::Text(text) => text,
                            Frame::SharedText(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
                            Frame::Binary(_) => unreachable!(),
                        };
                        prop_assert!(!closed, "a frame after the close: {text}");
                        let frame: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
                        let topic = frame[2].as_str().unwrap().to_owned();
                        let accepted = frame[4]["response"]["postgres_changes"].is_array();
                        match frame[3].as_str().unwrap() {
                            "phx_reply" if accepted => { open.insert(topic); }
                            "phx_reply" => {}
                            "phx_close" => {}
                            // Given to any membership, whatever its topic.
                            "broadcast" | "presence_diff" if topic == "realtime:1" => {
                                prop_assert!(!open.is_empty(), "too early: {text}");
                            }
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
        // Memberships that the pipeline holds: it forgets those that it resynchronises itself.
        let mut held: BTreeSet<u32> = BTreeSet::new();
        let mut refused: BTreeSet<u32> = BTreeSet::new();
        let mut asked: BTreeSet<u32> = BTreeSet::new();
        let mut steps = steps;
        steps.push(Step::Drain);
        for step in &steps {
            if let Step::Notice { membership, which } = step {
                // Who is refused is still known there, and may ask again.
                let ends = *which == 2;
                if !held.contains(membership) || (ends && !held.remove(membership)) {
                    continue;
                }
                if *which == 1 {
                    refused.insert(*membership);
                }
            }
            perform(&mut conversation, step);
            while let Some(output) = conversation.socket.poll_output() {
                match output {
                    Output::Subscribe { membership, .. } => {
                        prop_assert!(refused.remove(&membership) || held.insert(membership));
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

    /// Every room that is entered is left, by the end of the socket at the latest, and nothing is done in a room by who is
    /// not in it.
    #[test]
    fn rooms_are_entered_and_left(steps in proptest::collection::vec(step(), 0..60)) {
        let mut conversation = Conversation::begin(Version::V2);
        let mut questions = Questions::default();
        let mut rooms: BTreeMap<u32, Topic> = BTreeMap::new();
        for step in steps.iter().map(Some).chain([None]) {
            match step {
                Some(step) => {
                    perform(&mut conversation, step);
                    questions.answer(&mut conversation, step);
                }
                None => conversation.socket.handle(conversation.now, Input::Gone),
            }
            while let Some(output) = conversation.socket.poll_output() {
                questions.put(&output);
                let Output::Room { membership, room, request } = output else {
                    continue;
                };
                match request {
                    RoomRequest::Enter(_) | RoomRequest::EnterReplaying(_) => {
                        let before = rooms.insert(membership, room.topic.clone());
                        prop_assert!(before.is_none_or(|before| before == room.topic));
                    }
                    RoomRequest::Leave => prop_assert!(rooms.remove(&membership).is_some()),
                    _ => prop_assert_eq!(rooms.get(&membership), Some(&room.topic)),
                }
            }
        }
        prop_assert!(rooms.is_empty());
    }

    #[test]
    fn any_broadcast_is_encoded_or_not_at_all(data in proptest::collection::vec(any::<u8>(), 0..600)) {
        exercise_broadcast(&data);
    }

    #[test]
    fn any_bytes_are_survived(data in proptest::collection::vec(any::<u8>(), 0..300)) {
        exercise(instant(), &data);
    }

    /// The same with frames that get further than most bytes do.
    #[test]
    fn any_pushes_are_survived(steps in proptest::collection::vec(push(), 0..40)) {
        exercise(instant(), &steps.join(&0xff));
    }
}
