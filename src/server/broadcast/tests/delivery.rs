//! What members of the rooms receive.

use super::*;
use crate::log::{Outbox, Posting};
use crate::realtime::{Entry, Frame, Notice, Receives, RoomRequest, Version};
use crate::rooms::MemberId;
use crate::topic::Topic;

/// Everything that a member of a room was sent, in version 1 and version 2; `-` for nothing.
struct Member(Arc<Outbox<Notice>>);

impl Member {
    fn enter(fixture: &Fixture, connection: u64, sub_topic: &str, private: bool) -> Self {
        let outbox = Arc::new(Outbox::new());
        let topic = Topic::of_sub_topic(sub_topic).unwrap();
        let member = MemberId {
            connection,
            membership: 1,
        };
        let receives = Receives {
            broadcasts: true,
            presence: false,
        };
        let room = Arc::new(Room { topic, private });
        let request = RoomRequest::Enter(Entry::open(receives));
        let now = clock::instant();
        fixture.rooms.handle(now, member, &outbox, &room, request);
        Self(outbox)
    }

    fn heard(&self) -> Vec<[String; 2]> {
        let postings = std::iter::from_fn(|| self.0.pop(1));
        postings
            .map(|posting| match posting {
                Posting::Notice {
                    notice: Notice::Broadcast(broadcast),
                    ..
                } => [Version::V1, Version::V2].map(|version| match broadcast.frame(version) {
                    None => "-".to_owned(),
                    Some(Frame::Text(text)) => text,
                    Some(Frame::SharedText(bytes)) => String::from_utf8(bytes.to_vec()).unwrap(),
                    Some(Frame::Binary(bytes)) => bytes.escape_ascii().to_string(),
                }),
                other => panic!("{other:?}"),
            })
            .collect()
    }
}

#[tokio::test]
async fn a_batch_reaches_the_rooms_that_it_names_in_its_order() {
    let mut fixture = start(options()).await;
    let public = Member::enter(&fixture, 1, "a", false);
    let private = Member::enter(&fixture, 2, "a", true);
    let other = Member::enter(&fixture, 3, "b", true);
    let body = r#"{"messages":[
        {"topic":"a","event":"one","payload":{ "x":1.0 }},
        {"topic":"a","event":"two","payload":{},"private":true,"id":"7"},
        {"topic":"b","event":"no","payload":{},"private":true},
        {"topic":"a","event":"three","payload":{}},
        {"topic":"a","event":"four","payload":{},"private":true}
    ]}"#;
    let address = fixture.address;
    let (reply, ()) = tokio::join!(post(address, BATCH, JSON, body), async {
        for _ in 0..2 {
            let question = question(&mut fixture).await;
            let allowed = question.room.topic.sub_topic() == "a";
            question.reply.send(Ok(Said::Write(allowed)));
        }
    });
    reply.is(202, "");
    let text = |object: &str| {
        [
            format!(
                r#"{{"topic":"realtime:a","event":"broadcast","payload":{object},"ref":null}}"#
            ),
            format!(r#"[null,null,"realtime:a","broadcast",{object}]"#),
        ]
    };
    let one = text(r#"{"event":"one","payload":{ "x":1.0 },"type":"broadcast"}"#);
    let two = text(r#"{"event":"two","payload":{},"type":"broadcast","meta":{"id":"7"}}"#);
    let three = text(r#"{"event":"three","payload":{},"type":"broadcast"}"#);
    let four = text(r#"{"event":"four","payload":{},"type":"broadcast"}"#);
    assert_eq!(public.heard(), [one, three]);
    assert_eq!(private.heard(), [two, four]);
    assert!(other.heard().is_empty());
}

#[tokio::test]
async fn one_message_reaches_version_2_in_binary() {
    let mut fixture = start(options()).await;
    let public = Member::enter(&fixture, 1, "a:b/c", false);
    let private = Member::enter(&fixture, 2, "a:b/c", true);
    let address = fixture.address;
    let path = "/api/broadcast/a%3Ab%2Fc/events/%C3%A9";
    let octets = "content-type: application/octet-stream\r\n";
    post(address, path, JSON, r#" { "x":1.0 } "#)
        .await
        .is(202, "");
    post(address, path, octets, "{").await.is(202, "");
    let path = "/api/broadcast/a%3Ab%2Fc/events/e?private=true";
    let allowed = [Ok(Said::Write(true))];
    let (reply, _) = single_with(&mut fixture, path, "7", allowed).await;
    reply.is(202, "");
    let denied = [Ok(Said::Write(false))];
    let (reply, _) = single_with(&mut fixture, path, "8", denied).await;
    reply.says(403, "Unauthorized");
    let text = |event: &str, data: &str| {
        format!(
            r#"{{"topic":"realtime:a:b/c","event":"broadcast","payload":{{"event":"{event}","payload":{data},"type":"broadcast"}},"ref":null}}"#
        )
    };
    // Kind, the lengths of topic, event and metadata, the encoding, and the three.
    let binary = |event: &[u8], encoding: u8, data: &[u8]| {
        let event_bytes = u8::try_from(event.len()).unwrap();
        let head = [&[4, 14, event_bytes, 0, encoding][..], b"realtime:a:b/c"].concat();
        [&head, event, data].concat().escape_ascii().to_string()
    };
    let e = "é".as_bytes();
    assert_eq!(
        public.heard(),
        [
            [text("é", r#"{ "x":1.0 }"#), binary(e, 1, br#"{ "x":1.0 }"#)],
            ["-".to_owned(), binary(e, 0, b"{")],
        ]
    );
    assert_eq!(
        private.heard(),
        [[
            text("e", r#"{"_json":7}"#),
            binary(b"e", 1, br#"{"_json":7}"#)
        ]]
    );
}
