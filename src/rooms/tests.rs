//! What members do, and what reaches which outbox, literally.

mod replay;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;

use super::meta::Refs;
use super::presence::window;
use super::{MemberId, Rooms, Shared, Sizes};
use crate::log::{Outbox, Posting};
use crate::realtime::{
    Broadcast, Content, Entry, Frame, Notice, PresenceDiff, Receives, RoomRequest, Storing, Version,
};
use crate::topic::{Room, Topic};

const ALL: Receives = Receives {
    broadcasts: true,
    presence: true,
};
const BROADCASTS: Receives = Receives {
    presence: false,
    ..ALL
};
const PRESENCE: Receives = Receives {
    broadcasts: false,
    ..ALL
};

#[expect(
    clippy::disallowed_methods,
    reason = "an instant to count from, nothing waits"
)]
fn instant() -> Instant {
    Instant::now()
}

fn room(sub_topic: &str, private: bool) -> Arc<Room> {
    let topic = Topic::of_sub_topic(sub_topic).unwrap();
    Arc::new(Room { topic, private })
}

fn message(id: &str) -> Arc<Broadcast> {
    let content = Content::Json {
        event: "e".into(),
        data: "{}".into(),
    };
    let topic = Topic::of_sub_topic("a").unwrap();
    Arc::new(Broadcast::new(topic, content, Some(id.into())))
}

/// The payload of a diff as it is on the wire.
fn payload(diff: &PresenceDiff) -> String {
    let Frame::SharedText(text) = diff.frame(Version::V1) else {
        panic!("a diff is text");
    };
    let frame: HashMap<String, Box<RawValue>> = serde_json::from_slice(&text).unwrap();
    frame["payload"].get().to_owned()
}

/// Members of rooms, each on a connection of its own.
struct World {
    rooms: Rooms,
    now: Instant,
    outboxes: HashMap<u64, Arc<Outbox<Notice>>>,
}

impl World {
    /// The references are R1, R2, …
    fn new() -> Self {
        let shared = Shared {
            refs: Refs::new(0),
            ..Shared::default()
        };
        Self {
            rooms: Rooms {
                shared: Arc::new(shared),
            },
            now: instant(),
            outboxes: HashMap::new(),
        }
    }

    fn handle(&mut self, member: u64, room: &Arc<Room>, request: RoomRequest) {
        let id = MemberId {
            connection: member,
            membership: 7,
        };
        let outbox = self.outboxes.entry(member).or_default();
        self.rooms.handle(self.now, id, outbox, room, request);
    }

    fn enter(&mut self, room: &Arc<Room>, members: &[u64]) {
        for member in members {
            self.handle(*member, room, RoomRequest::Enter(Entry::open(ALL)));
        }
    }

    fn say(&mut self, member: u64, room: &Arc<Room>, id: &str, to_self: bool) {
        let message = message(id);
        let request = RoomRequest::Say {
            message,
            to_self,
            storing: None,
        };
        self.handle(member, room, request);
    }

    fn store(&mut self, member: u64, room: &Arc<Room>, id: &str) -> Arc<Storing> {
        let message = message(id);
        let storing = Arc::new(Storing::new(Arc::clone(&message)));
        let request = RoomRequest::Say {
            message,
            to_self: true,
            storing: Some(Arc::clone(&storing)),
        };
        self.handle(member, room, request);
        storing
    }

    fn track(&mut self, member: u64, room: &Arc<Room>, key: &str, payload: &str) {
        let request = RoomRequest::Track {
            key: key.into(),
            payload: RawValue::from_string(payload.to_owned()).unwrap(),
        };
        self.handle(member, room, request);
    }

    fn pass(&mut self, milliseconds: u64) -> Option<Instant> {
        self.now += Duration::from_millis(milliseconds);
        self.rooms.flush_due(self.now)
    }

    fn take(&self, member: u64) -> Vec<Notice> {
        let outbox = &self.outboxes[&member];
        std::iter::from_fn(|| outbox.pop(1))
            .map(|posting| match posting {
                Posting::Notice {
                    membership: 7,
                    notice,
                } => notice,
                other => panic!("not for this membership: {other:?}"),
            })
            .collect()
    }

    /// What has reached the member since the last look.
    #[track_caller]
    fn check(&self, member: u64, expected: &[&str]) {
        let refs = Refs::new(0);
        let refs: Vec<Box<str>> = (0..20).map(|_| refs.next()).collect();
        let tell = |notice: Notice| match notice {
            Notice::Broadcast(message) => message.id().unwrap().to_owned(),
            Notice::Recheck(within) => format!("recheck within {within:?}"),
            Notice::PresenceState(state) => format!("state {}", state.0),
            Notice::PresenceDiff(diff) => format!("{} {}", diff.events(), payload(&diff)),
            other => panic!("no notice of a room: {other:?}"),
        };
        let mut heard: Vec<String> = self.take(member).into_iter().map(tell).collect();
        for text in &mut heard {
            for (phx_ref, number) in refs.iter().zip(1..) {
                *text = text.replace(&format!("\"{phx_ref}\""), &format!("\"R{number}\""));
            }
        }
        assert_eq!(heard, expected);
    }
}

#[test]
fn a_broadcast_reaches_all_others_of_its_room() {
    let (mut world, a, private) = (World::new(), room("a", false), room("a", true));
    world.enter(&a, &[1, 2]);
    world.enter(&room("b", false), &[3]);
    world.enter(&private, &[4]);
    world.say(1, &a, "public", false);
    world.say(4, &private, "private", true);
    world.check(1, &[]);
    world.check(2, &["public"]);
    world.check(3, &[]);
    world.check(4, &["private"]);
}

#[test]
fn who_enters_to_replay_hears_what_is_being_stored() {
    let (mut world, a) = (World::new(), room("a", true));
    world.enter(&a, &[1]);
    let first = world.store(1, &a, "first");
    let second = world.store(1, &a, "second");
    let elsewhere = world.store(1, &room("a", false), "elsewhere");
    drop(first);
    world.say(1, &a, "not stored", true);
    world.handle(2, &a, RoomRequest::EnterReplaying(Entry::open(BROADCASTS)));
    world.enter(&a, &[3]);
    world.check(1, &["first", "second", "not stored"]);
    world.check(2, &["second"]);
    world.check(3, &[]);
    // Nobody need be in the room; and who says it may leave.
    let message = message("http");
    let http = Arc::new(Storing::new(message));
    let b = room("b", true);
    world.rooms.say_stored(&b, &http);
    world.handle(4, &b, RoomRequest::EnterReplaying(Entry::open(BROADCASTS)));
    world.handle(1, &a, RoomRequest::Leave);
    world.handle(2, &a, RoomRequest::Leave);
    world.handle(3, &a, RoomRequest::Leave);
    world.handle(5, &a, RoomRequest::EnterReplaying(Entry::open(BROADCASTS)));
    world.check(4, &["http"]);
    world.check(5, &["second"]);
    drop((second, http, elsewhere));
    world.handle(6, &a, RoomRequest::EnterReplaying(Entry::open(BROADCASTS)));
    world.handle(6, &b, RoomRequest::EnterReplaying(Entry::open(BROADCASTS)));
    world.check(6, &[]);
}

#[test]
fn the_sender_hears_itself_only_if_it_asked_to() {
    let (mut world, a) = (World::new(), room("a", false));
    world.enter(&a, &[1]);
    world.say(1, &a, "others", false);
    world.say(1, &a, "all", true);
    world.check(1, &["all"]);
}

#[test]
fn only_the_sending_membership_is_left_out() {
    let (mut world, a) = (World::new(), room("a", false));
    world.enter(&a, &[1]);
    let other = MemberId {
        connection: 1,
        membership: 8,
    };
    let outbox = Arc::new(Outbox::new());
    let request = RoomRequest::Enter(Entry::open(ALL));
    world.rooms.handle(world.now, other, &outbox, &a, request);
    world.say(1, &a, "x", false);
    world.check(1, &[]);
    let Some(Posting::Notice { membership: 8, .. }) = outbox.pop(1) else {
        panic!("the other membership hears it");
    };
}

#[test]
fn what_no_member_said_reaches_all() {
    let (mut world, a) = (World::new(), room("a", false));
    world.enter(&a, &[1, 2]);
    world.rooms.say(&a, &message("http"));
    world.rooms.say(&room("a", true), &message("private"));
    world.check(1, &["http"]);
    world.check(2, &["http"]);
}

#[test]
fn members_hear_only_while_they_are_members() {
    let (mut world, a) = (World::new(), room("a", false));
    world.enter(&a, &[1]);
    world.say(1, &a, "before", true);
    world.enter(&a, &[2]);
    world.say(1, &a, "meanwhile", true);
    world.handle(2, &a, RoomRequest::Leave);
    world.say(1, &a, "after", true);
    world.check(1, &["before", "meanwhile", "after"]);
    world.check(2, &["meanwhile"]);
}

#[test]
fn members_get_what_they_receive() {
    let (mut world, a) = (World::new(), room("a", false));
    world.enter(&a, &[1, 2]);
    world.handle(2, &a, RoomRequest::Enter(Entry::open(PRESENCE)));
    world.say(1, &a, "x", true);
    world.track(1, &a, "ann", "{}");
    let joined = r#"1 {"joins":{"ann":{"metas":[{"phx_ref":"R1"}]}},"leaves":{}}"#;
    world.check(1, &["x", joined]);
    world.check(2, &[joined]);

    world.handle(2, &a, RoomRequest::Enter(Entry::open(BROADCASTS)));
    world.say(1, &a, "y", true);
    world.handle(1, &a, RoomRequest::Untrack);
    world.pass(1000);
    world.handle(2, &a, RoomRequest::State);
    world.check(2, &["y"]);
}

#[test]
fn the_order_of_a_sender_is_kept() {
    let (mut world, a) = (World::new(), room("a", false));
    world.enter(&a, &[1, 2]);
    let ids: Vec<String> = (0..100).map(|number: u32| number.to_string()).collect();
    for id in &ids {
        world.say(1, &a, id, false);
    }
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    world.check(2, &ids);
}

#[test]
fn a_member_that_takes_nothing_overflows_alone() {
    let (mut world, a) = (World::new(), room("a", false));
    world
        .outboxes
        .insert(1, Arc::new(Outbox::with_limit(1_000)));
    world.enter(&a, &[1, 2]);
    for _ in 0..100 {
        world.say(2, &a, "x", true);
    }
    assert!(world.outboxes[&1].has_overflowed());
    assert!(world.take(1).len() < 100);
    assert!(!world.outboxes[&2].has_overflowed());
    assert_eq!(world.take(2).len(), 100);
}

#[test]
fn private_members_are_told_to_look_at_their_permissions() {
    let mut world = World::new();
    world.enter(&room("a", false), &[1]);
    for (number, name) in (2..).zip(["a", "b", "c", "d", "e", "f", "g", "h"]) {
        world.enter(&room(name, true), &[number]);
    }
    world.rooms.recheck(world.now);
    world.check(1, &[]);
    for member in 2..10 {
        world.check(member, &["recheck within 1s"]);
    }
}

#[test]
fn a_doubt_is_told_at_once_and_several_together() {
    let mut world = World::new();
    world.enter(&room("a", true), &[1]);
    world.enter(&room("a", false), &[2]);
    world.rooms.doubt(world.now);
    world.check(1, &["recheck within 0ns"]);
    world.rooms.doubt(world.now);
    world.rooms.doubt(world.now + Duration::from_millis(50));
    world.check(1, &[]);
    let begin = world.now;
    assert_eq!(world.pass(99), Some(begin + Duration::from_millis(100)));
    world.check(1, &[]);
    assert_eq!(world.pass(1), None);
    world.check(1, &["recheck within 0ns"]);
    world.check(2, &[]);
}

#[test]
fn every_doubt_is_one_about_sending() {
    let mut world = World::new();
    world.enter(&room("a", true), &[1]);
    world.rooms.doubt_sending();
    world.rooms.doubt_sending();
    // Nobody is told.
    world.check(1, &[]);
    assert_eq!(world.rooms.sending_doubts(), 2);
    world.rooms.doubt(world.now);
    world.rooms.recheck(world.now);
    // At once, also where the telling is put off.
    world.rooms.doubt(world.now);
    assert_eq!(world.rooms.sending_doubts(), 5);
}

#[test]
fn who_enters_after_a_doubt_on_an_answer_from_before_is_told() {
    type Change = fn(&World);
    let changes: [Change; 2] = [
        |world| world.rooms.doubt(world.now),
        |world| world.rooms.recheck(world.now),
    ];
    for change in changes {
        let (mut world, a) = (World::new(), room("a", true));
        let before = world.now;
        world.pass(10);
        change(&world);
        let at_once = world.now;
        world.pass(10);
        // Also while a telling is put off.
        world.rooms.doubt(world.now);
        let put_off = world.now;
        world.pass(1);
        let after = world.now;
        for (member, asked, told) in [
            (1, Some(before), true),
            (2, Some(at_once), true),
            (3, Some(put_off), true),
            (4, Some(after), false),
            (5, None, false),
        ] {
            let receives = BROADCASTS;
            for request in [
                RoomRequest::EnterReplaying(Entry { receives, asked }),
                RoomRequest::Enter(Entry { receives, asked }),
            ] {
                world.handle(member, &a, request);
                let expected: &[&str] = if told { &["recheck within 0ns"] } else { &[] };
                world.check(member, expected);
            }
        }
    }
}

#[test]
fn many_members_ask_one_after_the_other() {
    let mut world = World::new();
    let members: Vec<u64> = (1..=2000).collect();
    world.enter(&room("a", true), &members);
    world.rooms.doubt(world.now);
    world.check(2000, &["recheck within 2s"]);
    world.rooms.doubt(world.now);
    assert!(world.pass(1999).is_some());
    world.check(2000, &[]);
    assert_eq!(world.pass(1), None);
    world.check(2000, &["recheck within 2s"]);
}

#[test]
fn empty_rooms_are_removed_and_everything_is_counted() {
    let (mut world, a, b) = (World::new(), room("a", false), room("a", true));
    let sizes = |rooms, members, tracked| Sizes {
        rooms,
        members,
        tracked,
    };
    world.enter(&a, &[1, 2, 2]);
    world.enter(&b, &[3]);
    world.track(1, &a, "k", "{}");
    world.track(1, &a, "k", r#"{"a":1}"#);
    world.track(3, &b, "k", "{}");
    assert_eq!(world.rooms.sizes(), sizes(2, 3, 2));
    world.handle(3, &b, RoomRequest::Untrack);
    world.handle(3, &b, RoomRequest::Untrack);
    assert_eq!(world.rooms.sizes(), sizes(2, 3, 1));
    world.handle(3, &b, RoomRequest::Leave);
    world.handle(3, &b, RoomRequest::Leave);
    world.handle(1, &a, RoomRequest::Leave);
    assert_eq!(world.rooms.sizes(), sizes(1, 1, 0));
    world.handle(2, &a, RoomRequest::Leave);
    assert_eq!(world.rooms.sizes(), Sizes::default());
    // Nothing is left of what was there.
    world.pass(1000);
    world.enter(&a, &[4]);
    world.handle(4, &a, RoomRequest::State);
    world.check(4, &["state {}"]);
}

#[test]
fn nobody_is_present_without_being_a_member() {
    let (mut world, a) = (World::new(), room("a", false));
    world.enter(&a, &[1, 2]);
    world.handle(2, &a, RoomRequest::Leave);
    world.track(2, &a, "ghost", "{}");
    world.handle(2, &a, RoomRequest::State);
    world.pass(1000);
    world.handle(1, &a, RoomRequest::State);
    world.check(1, &["state {}"]);
    world.check(2, &[]);
}

#[test]
fn tracking_again_is_one_diff_with_both_and_the_same_again_is_none() {
    let (mut world, a) = (World::new(), room("a", false));
    world.enter(&a, &[1, 2]);
    world.track(1, &a, "ann", r#"{"x":1}"#);
    world.pass(1000);
    world.track(1, &a, "ann", r#"{"x":1}"#);
    world.pass(1000);
    world.track(1, &a, "ann", r#"{"x":2}"#);
    let expected = [
        r#"1 {"joins":{"ann":{"metas":[{"phx_ref":"R1","x":1}]}},"leaves":{}}"#,
        concat!(
            r#"2 {"joins":{"ann":{"metas":[{"phx_ref":"R3","phx_ref_prev":"R1","x":2}]}},"#,
            r#""leaves":{"ann":{"metas":[{"phx_ref":"R1","x":1}]}}}"#
        ),
    ];
    world.check(1, &expected);
    world.check(2, &expected);
}

#[test]
fn another_key_is_another_presence() {
    let (mut world, a) = (World::new(), room("a", false));
    world.enter(&a, &[1]);
    world.track(1, &a, "ann", "{}");
    world.pass(1000);
    world.take(1);
    world.track(1, &a, "bob\"", "{}");
    world.check(
        1,
        &[concat!(
            r#"2 {"joins":{"bob\"":{"metas":[{"phx_ref":"R2"}]}},"#,
            r#""leaves":{"ann":{"metas":[{"phx_ref":"R1"}]}}}"#
        )],
    );
}

#[test]
fn untracking_and_leaving_are_leaves() {
    let (mut world, a) = (World::new(), room("a", false));
    world.enter(&a, &[1, 2, 3]);
    world.track(1, &a, "ann", "{}");
    world.pass(1000);
    world.track(2, &a, "ann", r#"{"x":2}"#);
    world.pass(1000);
    world.take(3);
    world.handle(1, &a, RoomRequest::Untrack);
    world.pass(1000);
    world.handle(1, &a, RoomRequest::Untrack);
    world.handle(2, &a, RoomRequest::Leave);
    let expected = [
        r#"1 {"joins":{},"leaves":{"ann":{"metas":[{"phx_ref":"R1"}]}}}"#,
        r#"1 {"joins":{},"leaves":{"ann":{"metas":[{"phx_ref":"R2","x":2}]}}}"#,
    ];
    world.check(3, &expected);
}

#[test]
fn one_key_has_a_meta_for_each_membership() {
    let (mut world, a) = (World::new(), room("a", false));
    world.enter(&a, &[1, 2, 3]);
    world.track(1, &a, "ann", "{}");
    world.track(3, &a, "ann", r#"{"x":3}"#);
    world.track(2, &a, "ann", r#"{"x":2}"#);
    world.pass(1000);
    world.take(1);
    world.handle(1, &a, RoomRequest::State);
    world.check(
        1,
        &[
            r#"state {"ann":{"metas":[{"phx_ref":"R1"},{"phx_ref":"R3","x":2},{"phx_ref":"R2","x":3}]}}"#,
        ],
    );
}

#[test]
fn the_first_change_goes_out_at_once_and_the_next_together() {
    let (mut world, a) = (World::new(), room("a", false));
    world.enter(&a, &[1, 2, 3, 4]);
    world.track(1, &a, "k1", "{}");
    world.check(
        4,
        &[r#"1 {"joins":{"k1":{"metas":[{"phx_ref":"R1"}]}},"leaves":{}}"#],
    );
    let end = world.now + window(4);
    world.track(3, &a, "k3", "{}");
    assert_eq!(world.pass(10), Some(end));
    world.track(2, &a, "k2", "{}");
    world.handle(1, &a, RoomRequest::Untrack);
    assert_eq!(world.pass(10), Some(end));
    world.check(4, &[]);
    world.now = end;
    assert_eq!(world.rooms.flush_due(end), None);
    let merged = concat!(
        r#"3 {"joins":{"k2":{"metas":[{"phx_ref":"R3"}]},"k3":{"metas":[{"phx_ref":"R2"}]}},"#,
        r#""leaves":{"k1":{"metas":[{"phx_ref":"R1"}]}}}"#
    );
    world.check(4, &[merged]);
    // Under steady change there is one diff per window.
    world.handle(2, &a, RoomRequest::Untrack);
    world.check(4, &[]);
    assert_eq!(world.rooms.flush_due(end), Some(end + window(4)));
}

#[test]
fn coming_and_going_within_a_window_is_nothing() {
    let (mut world, a) = (World::new(), room("a", false));
    world.enter(&a, &[1, 2, 3]);
    world.track(1, &a, "k1", "{}");
    world.take(3);
    world.track(2, &a, "k2", "{}");
    world.track(2, &a, "k2", r#"{"x":2}"#);
    world.handle(2, &a, RoomRequest::Leave);
    world.pass(1000);
    world.check(3, &[]);
}

#[test]
fn several_versions_within_a_window_are_one_step_from_what_was_told() {
    let (mut world, a) = (World::new(), room("a", false));
    world.enter(&a, &[1]);
    world.track(1, &a, "k", r#"{"x":1}"#);
    world.take(1);
    world.track(1, &a, "k", r#"{"x":2}"#);
    world.handle(1, &a, RoomRequest::Untrack);
    world.track(1, &a, "k", r#"{"x":3}"#);
    world.pass(1000);
    world.check(
        1,
        &[concat!(
            r#"2 {"joins":{"k":{"metas":[{"phx_ref":"R3","phx_ref_prev":"R1","x":3}]}},"#,
            r#""leaves":{"k":{"metas":[{"phx_ref":"R1","x":1}]}}}"#
        )],
    );
}

#[test]
fn a_state_is_what_was_told_and_the_next_diff_continues_it() {
    let (mut world, a) = (World::new(), room("a", false));
    world.enter(&a, &[1, 2]);
    world.handle(1, &a, RoomRequest::State);
    world.track(1, &a, "k1", "{}");
    world.track(2, &a, "k2", "{}");
    world.enter(&a, &[3, 4]);
    world.handle(3, &a, RoomRequest::State);
    world.handle(4, &a, RoomRequest::State);
    let [Notice::PresenceState(three), Notice::PresenceState(four)] = [3, 4]
        .map(|member| world.outboxes[&member].pop(1))
        .map(|posting| match posting {
            Some(Posting::Notice { notice, .. }) => notice,
            other => panic!("{other:?}"),
        })
    else {
        panic!("both get the state");
    };
    assert!(Arc::ptr_eq(&three.0, &four.0), "made once");
    world.handle(3, &a, RoomRequest::State);
    world.pass(1000);
    world.check(
        1,
        &[
            "state {}",
            r#"1 {"joins":{"k1":{"metas":[{"phx_ref":"R1"}]}},"leaves":{}}"#,
            r#"1 {"joins":{"k2":{"metas":[{"phx_ref":"R2"}]}},"leaves":{}}"#,
        ],
    );
    world.check(
        3,
        &[
            r#"state {"k1":{"metas":[{"phx_ref":"R1"}]}}"#,
            r#"1 {"joins":{"k2":{"metas":[{"phx_ref":"R2"}]}},"leaves":{}}"#,
        ],
    );
    world.handle(3, &a, RoomRequest::State);
    world.check(
        3,
        &[r#"state {"k1":{"metas":[{"phx_ref":"R1"}]},"k2":{"metas":[{"phx_ref":"R2"}]}}"#],
    );
}

#[test]
fn public_and_private_presence_are_apart() {
    let (mut world, a, private) = (World::new(), room("a", false), room("a", true));
    world.enter(&a, &[1]);
    world.enter(&private, &[2]);
    world.track(1, &a, "k", "{}");
    world.pass(1000);
    world.handle(2, &private, RoomRequest::State);
    world.check(2, &["state {}"]);
}

#[test]
fn the_window_grows_with_the_room_up_to_a_bound() {
    for (members, milliseconds) in [(0, 50), (10, 51), (1_000, 150), (4_500, 500), (9_000, 500)] {
        assert_eq!(window(members), Duration::from_millis(milliseconds));
    }
}

#[test]
fn more_rooms_than_fit_in_one_go_are_flushed_by_asking_again() {
    let mut world = World::new();
    for number in 0..100 {
        let room = room(&number.to_string(), false);
        world.enter(&room, &[number]);
        world.track(number, &room, "k", "{}");
        world.take(number);
        world.handle(number, &room, RoomRequest::Untrack);
    }
    let mut turns = 1;
    let mut next = world.pass(1000);
    while let Some(at) = next {
        assert!(at <= world.now);
        turns += 1;
        next = world.pass(0);
    }
    assert!(turns > 10);
    for number in 0..100 {
        assert_eq!(world.take(number).len(), 1);
    }
}

#[test]
fn a_burst_of_joins_makes_few_diffs() {
    const JOINS: u64 = 2_000;
    let (mut world, a) = (World::new(), room("a", false));
    world.enter(&a, &[0]);
    for member in 1..=JOINS {
        world.enter(&a, &[member]);
        world.handle(member, &a, RoomRequest::State);
        world.track(member, &a, &member.to_string(), "{}");
        if member % 2 == 0 {
            world.pass(1);
        }
    }
    world.pass(1000);
    let heard = world.take(0);
    let joined: u32 = heard
        .iter()
        .map(|notice| match notice {
            Notice::PresenceDiff(diff) => diff.events(),
            other => panic!("{other:?}"),
        })
        .sum();
    assert_eq!(u64::from(joined), JOINS);
    assert!(heard.len() < 20, "{} diffs", heard.len());
}

#[test]
fn members_of_many_threads_come_and_go_without_a_trace() {
    let rooms = Rooms::new();
    std::thread::scope(|scope| {
        for connection in 0..4 {
            let rooms = rooms.clone();
            scope.spawn(move || {
                let (now, a, outbox) = (instant(), room("a", false), Arc::new(Outbox::new()));
                let member = MemberId {
                    connection,
                    membership: 1,
                };
                for _ in 0..2_000 {
                    let payload = RawValue::from_string("{}".to_owned()).unwrap();
                    let key = "k".into();
                    for request in [
                        RoomRequest::Enter(Entry::open(ALL)),
                        RoomRequest::Track { key, payload },
                        RoomRequest::State,
                        RoomRequest::Say {
                            message: message("x"),
                            to_self: true,
                            storing: None,
                        },
                    ] {
                        rooms.handle(now, member, &outbox, &a, request);
                    }
                    let heard = std::iter::from_fn(|| outbox.pop(1));
                    assert!(heard.count() >= 2, "the state and the message");
                    rooms.handle(now, member, &outbox, &a, RoomRequest::Leave);
                    let _next = rooms.flush_due(now + Duration::from_secs(1));
                }
            });
        }
    });
    assert_eq!(rooms.sizes(), Sizes::default());
}
