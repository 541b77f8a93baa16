//! Coming back for what the database broadcasts.

use super::*;
use crate::change::{Cursor, Datum, TupleBuilder};
use crate::pipeline::sessions::{KeyHash, Place, Resume};
use crate::pipeline::{Acknowledged, Farewell};
use crate::topic::{Room, Topic};

const RESUME: u128 = 1;

fn resume() -> Resume {
    Resume {
        place: Place::of_number(RESUME),
        key: KeyHash::new("key"),
        by_heartbeat: false,
    }
}

fn alice() -> Arc<Claims> {
    claims("authenticated", "alice")
}

fn cursor(xid: u32) -> Cursor {
    Cursor {
        epoch: Epoch(1),
        commit_lsn: Lsn::new(u64::from(xid) * 10),
        order: 0,
    }
}

impl Bench {
    fn wait_some(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now += Duration::from_millis(10);
            self.conductor.handle_timeout(self.now);
            self.turn();
        }
    }

    fn command(&mut self, command: Command) {
        self.conductor.handle_command(self.now, command);
        self.turn();
    }

    /// Asks for a position in the private room `a`.
    fn listen(&mut self, connection: u64, claims: Arc<Claims>) {
        self.listen_by(connection, claims, resume());
        self.look_around();
    }

    /// One snapshot may be under way that was begun before.
    fn look_around(&mut self) {
        for _ in 0..2 {
            if self.wants_horizon {
                self.see_all();
            }
            self.wait_some(Duration::from_millis(20));
        }
    }

    fn listen_by(&mut self, connection: u64, claims: Arc<Claims>, resume: Resume) {
        let outbox = Arc::new(Outbox::new());
        self.outboxes.insert(connection, Arc::clone(&outbox));
        let room = Arc::new(Room {
            topic: Topic::parse("realtime:a").unwrap(),
            private: true,
        });
        self.command(Command::Listen {
            connection,
            membership: 1,
            outbox,
            claims,
            room,
            grace: false,
            replays: false,
            resume,
        });
    }

    /// The join was answered.
    fn joined(&mut self, connection: u64) {
        self.command(Command::Hear {
            connection,
            membership: 1,
            unix_seconds: 0,
        });
        self.wait_some(Duration::from_millis(50));
    }

    fn come_by_heartbeat_for(&mut self, connection: u64) {
        let resume = Resume {
            by_heartbeat: true,
            ..resume()
        };
        self.listen_by(connection, alice(), resume);
        self.look_around();
        self.joined(connection);
    }

    fn begin_epoch_of_broadcasts(&mut self, epoch: u64, failed_over: bool) {
        self.stream(StreamEvent::Interrupted);
        self.stream(StreamEvent::Started {
            epoch: Epoch(epoch),
            from: Lsn::new(5000),
            end: Lsn::new(5000),
            failed_over,
            messages: Some(5),
        });
    }

    /// The question that was put to a connection, which was told nothing else.
    fn asked_of(&self, connection: u64) -> u64 {
        match self.outboxes[&connection].pop(1) {
            Some(Posting::Notice {
                notice: Notice::Probe(question),
                ..
            }) => question,
            other => panic!("{other:?}"),
        }
    }

    fn come_for(&mut self, connection: u64, claims: Arc<Claims>) {
        self.listen(connection, claims);
        self.joined(connection);
    }

    fn heard(&mut self, connection: u64, xid: u32) {
        self.command(Command::Heard {
            connection,
            what: Acknowledged::Processed,
            positions: vec![(1, cursor(xid))],
        });
    }

    fn gone(&mut self, connection: u64) {
        self.command(Command::Park {
            connection,
            memberships: vec![1],
            farewell: Farewell::Silent,
        });
    }

    /// One transaction for each of these, in room `a`.
    fn speak(&mut self, ids: std::ops::RangeInclusive<u64>) {
        for id in ids {
            self.commit(ROOT, spoken(id, "a"));
            self.see_all();
        }
    }

    /// What a listener was told, in short, without marks.
    fn told_of(&self, connection: u64) -> Vec<String> {
        let outbox = &self.outboxes[&connection];
        let notices = std::iter::from_fn(|| outbox.pop(1));
        let brief = |posting| match posting {
            Posting::Notice { notice, .. } => match notice {
                Notice::HeardUpTo(_) => None,
                Notice::Listening { goes_on } => Some(format!("listening {goes_on}")),
                Notice::Missed(message) => Some(format!("missed {}", message.id().unwrap())),
                Notice::CaughtUp => Some("caught up".to_owned()),
                Notice::Unheard(reason) => Some(reason.to_string()),
                other => Some(format!("{other:?}")),
            },
            other => Some(format!("{other:?}")),
        };
        notices.filter_map(brief).collect()
    }
}

/// Somebody who was here, has heard what transaction 100 said, and is away.
fn away() -> Bench {
    let mut bench = Bench::new();
    bench.come_for(1, alice());
    bench.speak(1..=1);
    assert_eq!(bench.told_of(1), ["listening false", "caught up"]);
    bench.heard(1, 100);
    bench.gone(1);
    bench
}

#[test]
fn who_comes_back_hears_what_it_missed_and_then_the_room() {
    let mut bench = away();
    bench.speak(2..=3);
    bench.commit(ROOT, spoken(4, "b"));
    bench.see_all();
    bench.listen(2, alice());
    assert_eq!(bench.told_of(2), ["listening true"]);
    // The room says it as well, and the channel leaves that aside.
    bench.speak(5..=5);
    assert_eq!(bench.told_of(2), [""; 0]);
    bench.joined(2);
    assert_eq!(
        bench.told_of(2),
        ["missed 2", "missed 3", "missed 5", "caught up"]
    );
    bench.speak(6..=6);
    bench.wait_some(Duration::from_secs(1));
    assert_eq!(bench.told_of(2), [""; 0]);
    assert_eq!(bench.said.last().unwrap(), "a true 6");
}

#[test]
fn a_join_that_was_refused_takes_nothing_from_the_next_one() {
    for was_answered in [false, true] {
        let mut bench = away();
        bench.speak(2..=2);
        bench.listen(2, alice());
        if was_answered {
            bench.joined(2);
        }
        bench.command(Command::Unsubscribe {
            connection: 2,
            membership: 1,
        });
        bench.come_for(3, alice());
        let told: &[&str] = if was_answered {
            &["listening false", "caught up"]
        } else {
            &["listening true", "missed 2", "caught up"]
        };
        assert_eq!(bench.told_of(3), told);
    }
}

#[test]
fn a_mark_is_behind_all_that_was_said() {
    let mut bench = away();
    bench.speak(2..=2);
    bench.come_for(2, alice());
    bench.commit(ROOT, spoken(3, "a"));
    let mark = |bench: &mut Bench| {
        while bench.outboxes[&2].pop(1).is_some() {}
        bench.command(Command::Mark {
            connection: 2,
            memberships: vec![1],
        });
        match bench.outboxes[&2].pop(1) {
            Some(Posting::Notice {
                notice: Notice::HeardUpTo(cursor),
                ..
            }) => cursor.commit_lsn.bytes(),
            other => panic!("{other:?}"),
        }
    };
    // Transaction 102 was received and is not visible yet.
    assert_eq!(mark(&mut bench), 1019);
    bench.see_all();
    assert_eq!(mark(&mut bench), 1024);
}

#[test]
fn what_was_not_acknowledged_comes_again_and_who_left_hears_nothing() {
    let mut bench = away();
    bench.speak(2..=2);
    for connection in [2, 3] {
        bench.come_for(connection, alice());
        assert_eq!(
            bench.told_of(connection),
            ["listening true", "missed 2", "caught up"]
        );
        bench.gone(connection);
    }
    bench.come_for(4, alice());
    bench.command(Command::Unsubscribe {
        connection: 4,
        membership: 1,
    });
    bench.come_for(5, alice());
    assert_eq!(bench.told_of(5), ["listening false", "caught up"]);
}

#[test]
fn who_may_not_read_has_nothing_to_come_back_for() {
    let mut bench = away();
    bench.speak(2..=2);
    bench.command(Command::Forget {
        claims: alice(),
        resume: resume(),
    });
    bench.come_for(2, alice());
    assert_eq!(bench.told_of(2), ["listening false", "caught up"]);
}

#[test]
fn another_subject_waits_for_a_token_and_takes_nothing() {
    let mut bench = away();
    bench.speak(2..=2);
    let bob = claims("authenticated", "bob");
    bench.come_for(2, Arc::clone(&bob));
    assert_eq!(bench.told_of(2), ["listening false"]);
    bench.speak(3..=3);
    bench.wait_some(Duration::from_secs(2));
    // What was said since it came is not lost.
    assert_eq!(
        bench.told_of(2),
        ["identity changed", "missed 3", "caught up"]
    );
    bench.listen(3, bob);
    bench.command(Command::Identify {
        connection: 3,
        membership: 1,
        claims: alice(),
    });
    bench.joined(3);
    assert_eq!(bench.told_of(3)[1..], ["missed 2", "missed 3", "caught up"]);
}

#[test]
fn a_socket_that_does_not_answer_is_replaced_and_one_that_does_is_not() {
    for answers in [false, true] {
        let mut bench = away();
        bench.speak(2..=2);
        bench.come_for(2, alice());
        bench.told_of(2);
        bench.come_for(3, alice());
        let question = bench.asked_of(2);
        // What the peer sent before it was asked says nothing.
        bench.heard(2, 100);
        bench.command(Command::Answer {
            connection: 2,
            question: if answers { question } else { question - 1 },
        });
        bench.wait_some(Duration::from_millis(2100));
        let expected: &[&str] = if answers {
            // It may be the one whose session the other has taken.
            &[
                "listening false",
                "position no longer retained",
                "caught up",
            ]
        } else {
            &["listening false", "missed 2", "caught up"]
        };
        assert_eq!(bench.told_of(3), expected);
        assert_eq!(bench.told_of(2).len(), usize::from(!answers));
    }
}

#[test]
fn what_an_earlier_process_said_is_heard_by_who_missed_it_only() {
    let mut bench = Bench::begun(false, Lsn::new(1030));
    let stored = crate::pipeline::sessions::Record {
        place: Place::of_number(RESUME),
        holder: crate::pipeline::sessions::Holder::new(&alice(), KeyHash::new("key")),
        cursor: Some(cursor(101)),
    };
    let now = bench.now;
    (bench.conductor.heard_sessions()).load(now, [stored], None, true);
    // The WAL ends there already, and is read again from its beginning.
    bench.next_xid = 103;
    bench.come_for(2, alice());
    assert_eq!(bench.told_of(2), ["listening true"]);
    bench.next_xid = 100;
    for id in 1..=3 {
        bench.commit(ROOT, spoken(id, "a"));
    }
    bench.see_all();
    bench.wait_some(Duration::from_millis(50));
    assert_eq!(bench.told_of(2), ["missed 3"]);
    bench.stream(StreamEvent::Position(Lsn::new(1030)));
    bench.wait_some(Duration::from_millis(50));
    assert_eq!(bench.told_of(2), ["caught up"]);
    assert_eq!(bench.said, [""; 0]);
    bench.speak(4..=4);
    assert_eq!(bench.said, ["a true 4"]);
}

#[test]
fn a_gap_is_told_to_who_is_there_and_to_who_comes_back() {
    let mut bench = away();
    bench.come_for(2, claims("authenticated", "bob"));
    bench.wait_some(Duration::from_secs(3));
    bench.told_of(2);
    bench.speak(2..=2);
    bench.stream(StreamEvent::Interrupted);
    let started = StreamEvent::Started {
        epoch: Epoch(1),
        from: Lsn::new(1015),
        end: Lsn::new(1015),
        failed_over: false,
        messages: None,
    };
    bench.stream(started);
    assert_eq!(bench.told_of(2), ["position no longer retained"]);
    bench.listen(3, alice());
    bench.joined(3);
    assert_eq!(
        bench.told_of(3),
        [
            "listening false",
            "position no longer retained",
            "caught up"
        ]
    );
}

#[test]
fn positions_of_another_epoch_mean_nothing() {
    let mut bench = away();
    bench.stream(StreamEvent::Started {
        epoch: Epoch(2),
        from: Lsn::new(900),
        end: Lsn::new(900),
        failed_over: false,
        messages: Some(5),
    });
    for connection in [2, 3] {
        // Whether it heard so is not known.
        bench.come_for(connection, alice());
        assert_eq!(
            bench.told_of(connection),
            [
                "listening false",
                "position no longer retained",
                "caught up"
            ]
        );
        bench.gone(connection);
    }
}

#[test]
fn a_peer_that_takes_nothing_is_given_so_much() {
    let mut bench = away();
    // Twice as much as may wait.
    let payload = format!("\"{}\"", "x".repeat(900));
    let row = |id: u64| {
        let mut builder = TupleBuilder::new();
        for text in [&id.to_string(), "a", "event", "t", &payload] {
            builder.push(Datum::Text(text.as_bytes()));
        }
        let new = builder.build();
        ChangeKind::Insert { new }
    };
    let rows: Vec<ChangeKind> = (0..2200).map(row).collect();
    let xid = bench.next_xid;
    bench.next_xid += 1;
    bench.part(xid, ROOT, rows, true);
    bench.see_all();
    bench.come_for(2, alice());
    bench.wait_some(Duration::from_secs(1));
    let waiting = bench.outboxes[&2].offered_bytes();
    assert!((1 << 20..(1 << 20) + 2000).contains(&waiting), "{waiting}");
    let mut taken = bench.told_of(2);
    assert_ne!(taken.last().unwrap(), "caught up");
    while taken.last().is_some_and(|told| told != "caught up") {
        bench.wait_some(Duration::from_millis(100));
        taken.extend(bench.told_of(2));
    }
    assert_eq!(taken.len(), 2202);
}

#[test]
fn who_is_there_is_told_of_another_slot_of_another_database_and_of_none() {
    for failed_over in [false, true] {
        let mut bench = away();
        bench.come_for(2, alice());
        bench.told_of(2);
        bench.begin_epoch_of_broadcasts(2, failed_over);
        let expected = if failed_over {
            ResyncReason::FailedOver
        } else {
            ResyncReason::SlotRecreated
        };
        assert_eq!(bench.told_of(2), [expected.to_string()]);
    }
    let mut bench = away();
    bench.come_for(2, alice());
    bench.told_of(2);
    bench.stream(StreamEvent::Interrupted);
    bench.stream(StreamEvent::GivenUp);
    let told = ResyncReason::SlotRecreated.to_string();
    assert_eq!(bench.told_of(2), [&*told]);
    bench.listen(3, claims("authenticated", "bob"));
    assert_eq!(bench.told_of(3), [""; 0], "it waits for the next epoch");
    bench.begin_epoch_of_broadcasts(2, false);
    assert_eq!(bench.told_of(2), [&*told], "what was lost meanwhile");
    bench.look_around();
    assert_eq!(bench.told_of(3), ["listening false"]);
}

#[test]
fn what_an_epoch_gave_up_unseen_is_visible_before_anybody_listens() {
    for failed_over in [false, true] {
        let mut bench = away();
        bench.commit(ROOT, spoken(2, "a"));
        bench.begin_epoch_of_broadcasts(2, failed_over);
        // The query that was under way; it proves nothing about who comes later.
        bench.horizon(bench.next_xid - 1);
        bench.listen_by(2, claims("authenticated", "bob"), resume());
        for _ in 0..3 {
            if bench.wants_horizon {
                bench.horizon(bench.next_xid - 1);
            }
            bench.wait_some(Duration::from_millis(100));
        }
        let begun: &[&str] = if failed_over {
            &["listening false"]
        } else {
            &[]
        };
        assert_eq!(bench.told_of(2), begun);
        if !failed_over {
            bench.wait_some(Duration::from_secs(1));
            bench.look_around();
            assert_eq!(bench.told_of(2), ["listening false"]);
        }
    }
}

#[test]
fn by_heartbeat_nobody_waits_for_who_may_be_gone() {
    let mut bench = away();
    bench.come_by_heartbeat_for(2);
    bench.told_of(2);
    bench.speak(2..=3);
    bench.heard(2, 101);
    bench.come_by_heartbeat_for(3);
    assert_eq!(bench.told_of(2), [""; 0], "it is not asked");
    assert_eq!(
        bench.told_of(3),
        ["listening true", "missed 3", "caught up"]
    );
    bench.heard(3, 102);
    // The second was gone.
    bench.gone(2);
    bench.gone(3);
    bench.come_by_heartbeat_for(4);
    assert_eq!(bench.told_of(4), ["listening true", "caught up"]);
}

#[test]
fn nobody_is_told_that_it_listens_before_its_session_is_stored_with_those_of_changes() {
    let mut bench = Bench::new();
    let now = bench.now;
    let taken = |records| crate::pipeline::positions::Taken {
        records,
        was_ours: false,
        doubt: None,
        stores: true,
    };
    bench.conductor.take_over_sessions(now, taken(Vec::new()));
    bench.listen(1, alice());
    assert_eq!(bench.told_of(1), [""; 0]);
    bench.resume = Some(Resume {
        place: Place::of_number(RESUME + 1),
        ..resume()
    });
    bench.subscribe(2, alice(), false);
    bench.look_around();
    let batch = bench.conductor.take_changed_sessions();
    assert_eq!(batch.records.len(), 2);
    assert_eq!(bench.read(2), [""; 0]);
    bench.conductor.handle_written(now, batch.number);
    bench.wait_some(Duration::from_millis(100));
    assert_eq!(bench.told_of(1), ["listening false"]);
    assert_eq!(bench.read(2), ["subscribed"]);
    // Another process finds both.
    let mut other = Bench::new();
    (other.conductor).take_over_sessions(now, taken(batch.records));
    assert_eq!(other.conductor.sessions().len(), 1);
    assert_eq!(other.conductor.heard_sessions().len(), 1);
}

#[test]
fn who_waits_for_a_session_is_told_of_a_gap_as_well() {
    let mut bench = away();
    bench.come_for(2, alice());
    bench.told_of(2);
    bench.come_for(3, alice());
    let question = bench.asked_of(2);
    assert_eq!(bench.told_of(3), ["listening false"]);
    bench.begin_epoch_of_broadcasts(2, false);
    bench.command(Command::Answer {
        connection: 2,
        question,
    });
    bench.wait_some(Duration::from_millis(100));
    assert_eq!(bench.told_of(3).len(), 2, "of the gap, and that it is live");
}
