//! Going through the past.

use super::*;
use crate::change::Cursor;
use crate::realtime::PositionRefused;

/// A cursor at a change of transaction `xid`.
pub(super) fn cursor(epoch: u64, xid: u32, order: u32) -> String {
    let cursor = Cursor {
        epoch: Epoch(epoch),
        commit_lsn: Lsn::new(u64::from(xid) * 10),
        order,
    };
    cursor.to_string()
}

impl Bench {
    /// A join with bindings of these `since`, of the ids 7, 8 and so on; an empty one is none.
    pub(super) fn ask(&mut self, connection: u64, since: &[&str]) {
        let bindings = since.iter().zip(7..).map(|(since, id)| {
            let mut json = serde_json::json!({"event": "*", "schema": "public", "table": "*"});
            if !since.is_empty() {
                json["since"] = (*since).into();
            }
            let json = RawValue::from_string(json.to_string()).unwrap();
            RequestedBinding { id, json }
        });
        let claims = claims("authenticated", &connection.to_string());
        self.subscribe_to(connection, claims, false, bindings.collect());
    }

    /// A join that begins with a snapshot of now.
    fn join_since(&mut self, connection: u64, since: &str) {
        self.ask(connection, &[since]);
        self.see_all();
        self.go_through();
    }

    /// Turns until nobody goes on by itself.
    pub(super) fn go_through(&mut self) {
        for _ in 0..100 {
            self.now += Duration::from_millis(20);
            self.conductor.handle_timeout(self.now);
            self.turn();
        }
    }

    fn refused(&mut self, connection: u64) -> String {
        let read = self.read(connection);
        assert_eq!(read.len(), 1, "{read:?}");
        read.into_iter().next().unwrap()
    }
}

#[test]
fn the_past_comes_first_and_then_the_present() {
    let mut bench = Bench::new();
    bench.join(1);
    for id in 1..=3 {
        bench.commit(OPEN, insert(id, "past"));
        bench.see_all();
    }
    bench.join_since(2, &cursor(1, 100, 0));
    bench.commit(OPEN, insert(4, "now"));
    bench.see_all();
    assert_eq!(
        bench.read(2),
        [
            "subscribed",
            "INSERT 2 past.",
            "INSERT 3 past.",
            "INSERT 4 now."
        ]
    );
    bench.go_through();
    bench.commit(OPEN, insert(5, "later"));
    bench.see_all();
    assert_eq!(bench.read(2), ["INSERT 5 later."]);
    assert_eq!(bench.conductor.sizes().1, 2, "each has a lane again");
}

#[test]
fn what_nobody_was_bound_to_is_there_all_the_same() {
    let mut bench = Bench::new();
    bench.next_xid = 90;
    bench.commit(OPEN, insert(1, "early"));
    bench.commit(OPEN, insert(2, "late"));
    bench.join_since(1, &cursor(1, 90, 0));
    // Older than the catalog at hand: what could be read then is not known, so Postgres is asked.
    for pool in Pool::ALL {
        bench.conductor.handle_idle(bench.now, pool);
    }
    bench.turn();
    let ask = bench.question();
    bench.answer(&ask, &[Found::Same]);
    assert_eq!(bench.read(1), ["subscribed", "INSERT 2 late."]);
}

#[test]
fn what_cannot_be_had_is_refused() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.commit(OPEN, insert(1, "a"));
    bench.see_all();
    for since in [cursor(2, 100, 0), cursor(1, 5000, 0)] {
        bench.join_since(2, &since);
        assert!(bench.refused(2).contains("PositionRefused(TooOld(Some("));
    }
    bench.ask(2, &["yesterday"]);
    let malformed = Notice::PositionRefused(PositionRefused::Malformed);
    assert_eq!(bench.refused(2), format!("{malformed:?}"));
    bench.join_since(2, "2000-01-01T00:00:00Z");
    assert!(bench.refused(2).contains("TooOld"));
}

#[test]
fn postgres_says_what_of_the_past_may_still_be_seen() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.commit(OPEN, insert(9, "mark"));
    for kind in [
        insert(1, "first"),
        update(1, "second"),
        insert(2, "secret"),
        insert(3, "kept"),
        delete(3),
        delete(4),
    ] {
        bench.commit(MESSAGES, kind);
    }
    bench.see_all();
    let _of_the_first = bench.question();
    bench.join_since(2, &cursor(1, 100, 0));
    let ask = bench.question();
    let found = [Found::Different, Found::Same, Found::Missing, Found::Same];
    bench.answer(&ask, &found);
    bench.go_through();
    assert_eq!(
        bench.read(2),
        [
            "subscribed",
            "INSERT 1 second.",
            "INSERT 3 kept.",
            "DELETE 3 -.",
        ],
        "4 was never shown to it, and 2 is none of its business"
    );
}

#[test]
fn who_joins_long_before_the_stream_comes_there_does_not_hold_it_up() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.commit(OPEN, insert(1, "mark"));
    bench.see_all();
    bench.ask(2, &[&cursor(1, 100, 0)]);
    // What is read again after a start was written long before the join.
    bench.wants_horizon = false;
    let horizon = Horizon {
        snapshot: "200:200:".parse().unwrap(),
        insert_lsn: Lsn::new(1 << 20),
        fingerprint: bench.fingerprint.into(),
    };
    bench.conductor.handle_horizon(bench.now, Some(horizon));
    bench.turn();
    bench.go_through();
    bench.conductor.handle_command(
        bench.now,
        Command::Unsubscribe {
            connection: 1,
            membership: 1,
        },
    );
    for _ in 0..12 {
        let xid = bench.next_xid;
        bench.next_xid += 1;
        let rows = (0..1000).map(|id| insert(id, "x")).collect();
        bench.part(xid, MESSAGES, rows, true);
        bench.see_all();
        bench.go_through();
    }
    assert!(bench.conductor.wants_stream());
    bench.stream(StreamEvent::Position(Lsn::new(1 << 20)));
    assert_eq!(bench.read(2), ["subscribed"]);
}

#[test]
fn a_transaction_that_goes_on_is_ended_where_it_ends() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.part(100, OPEN, vec![insert(1, "a"), insert(2, "b")], false);
    bench.horizon(101);
    bench.next_xid = 101;
    bench.ask(2, &[&cursor(1, 99, 0)]);
    bench.see_all();
    bench.go_through();
    assert_eq!(bench.read(2), ["subscribed", "INSERT 1 a"]);
    bench.part(100, OPEN, vec![insert(3, "c")], true);
    bench.horizon(101);
    assert_eq!(bench.read(2), ["INSERT 2 b", "INSERT 3 c."]);
}

#[test]
fn each_binding_has_its_own_beginning() {
    let mut bench = Bench::new();
    bench.join(1);
    for id in 1..=2 {
        bench.commit(OPEN, insert(id, "past"));
        bench.see_all();
    }
    bench.ask(2, &[&cursor(1, 99, 0), &cursor(1, 100, 0), ""]);
    bench.see_all();
    bench.go_through();
    bench.commit(OPEN, insert(3, "now"));
    bench.see_all();
    assert_eq!(bench.ids(2), ["[7]", "[7,8]", "[7,8,9]"]);
}

#[test]
fn a_slow_reader_is_not_pushed_at() {
    let mut bench = Bench::new();
    bench.join(1);
    for _ in 0..10 {
        let xid = bench.next_xid;
        bench.next_xid += 1;
        let rows = (0..500).map(|id| insert(id, "x")).collect();
        bench.part(xid, OPEN, rows, true);
        bench.see_all();
        bench.read(1);
    }
    bench.join_since(2, &cursor(1, 99, 0));
    let waiting = bench.outboxes[&2].payloads();
    assert!((2000..3000).contains(&waiting), "{waiting}");
    bench.commit(OPEN, insert(1, "now"));
    bench.see_all();
    let mut read = Vec::new();
    for _ in 0..10 {
        read.extend(bench.read(2));
        bench.go_through();
    }
    assert_eq!(read.len(), 5002);
    assert_eq!(read.last().unwrap(), "INSERT 1 now.");
    assert_eq!(read.iter().filter(|line| line.ends_with('.')).count(), 11);
}

#[test]
fn a_new_token_on_the_way_is_who_is_asked_about() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.commit(MESSAGES, insert(1, "a"));
    bench.commit(MESSAGES, delete(2));
    bench.see_all();
    let _of_the_first = bench.question();
    bench.join_since(2, &cursor(1, 99, 0));
    let before = bench.question();
    let command = Command::Identify {
        connection: 2,
        membership: 1,
        claims: claims("authenticated", "somebody"),
    };
    bench.conductor.handle_command(bench.now, command);
    bench.turn();
    bench.answer(&before, &[Found::Same]);
    let after = bench.question();
    assert!(after.question.identity.claims().contains("somebody"));
    bench.answer(&after, &[Found::Missing]);
    bench.go_through();
    assert_eq!(bench.read(2), ["subscribed", "subscribed"]);
}

#[test]
fn positions_end_with_their_epoch() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.commit(OPEN, insert(1, "a"));
    bench.see_all();
    bench.stream(StreamEvent::Started {
        epoch: Epoch(2),
        from: Lsn::new(5000),
        end: Lsn::new(5000),
        failed_over: false,
        messages: Some(5),
    });
    bench.next_xid = 501;
    bench.see_all();
    bench.join_since(2, &cursor(1, 100, 0));
    assert!(bench.refused(2).contains("TooOld"));
}

#[test]
fn what_was_said_before_the_process_began_is_not_said_again() {
    let mut bench = Bench::begun(false, Lsn::new(1500));
    bench.part(149, ROOT, vec![spoken(1, "a")], true);
    bench.part(150, ROOT, vec![spoken(2, "a")], true);
    bench.horizon(151);
    assert_eq!(bench.said, ["a true 2"]);
}
