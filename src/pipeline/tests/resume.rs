//! Coming back.

use super::*;
use crate::change::Cursor;
use crate::pipeline::sessions::{KeyHash, Place, Resume};
use crate::pipeline::{Acknowledged, Farewell};

fn cursor(xid: u32) -> Cursor {
    Cursor {
        epoch: Epoch(1),
        commit_lsn: Lsn::new(u64::from(xid) * 10),
        order: 0,
    }
}

impl Bench {
    fn resume_as(&mut self, connection: u64, claims: Arc<Claims>, grace: bool) {
        self.resume = Some(Resume {
            place: Place::of_number(1),
            key: KeyHash::new("key"),
            by_heartbeat: false,
        });
        self.subscribe(connection, claims, grace);
    }

    fn come(&mut self, connection: u64, claims: Arc<Claims>, grace: bool) {
        self.resume_as(connection, claims, grace);
        let xmax = self.next_xid;
        self.see_for_some_time(&format!("{xmax}:{xmax}:"), xmax);
    }

    fn come_by_heartbeat(&mut self, connection: u64) {
        self.resume = Some(Resume {
            place: Place::of_number(1),
            key: KeyHash::new("key"),
            by_heartbeat: true,
        });
        self.subscribe(connection, alice(), false);
        let xmax = self.next_xid;
        self.see_for_some_time(&format!("{xmax}:{xmax}:"), xmax);
    }

    /// All snapshots are this one. One may be under way that was begun before.
    fn see_for_some_time(&mut self, snapshot: &str, xmax: u32) {
        for _ in 0..3 {
            if self.wants_horizon {
                self.horizon_of(snapshot, xmax);
            }
            self.wait(Duration::from_millis(50));
        }
    }

    fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now += Duration::from_millis(10);
            self.conductor.handle_timeout(self.now);
            self.turn();
        }
    }

    fn acknowledge(&mut self, connection: u64, xid: u32) {
        let command = Command::Acknowledge {
            connection,
            what: Acknowledged::Processed,
            positions: vec![(1, cursor(xid))],
        };
        self.conductor.handle_command(self.now, command);
        self.turn();
    }

    /// The question whether its peer answers.
    fn probed(&self, connection: u64) -> u64 {
        let mut question = None;
        while let Some(posting) = self.outboxes[&connection].pop(1) {
            if let Posting::Notice {
                notice: Notice::Probe(number),
                ..
            } = posting
            {
                question = Some(number);
            }
        }
        question.expect("it was asked")
    }

    fn answer_probe(&mut self, connection: u64, question: u64) {
        let command = Command::Answer {
            connection,
            question,
        };
        self.conductor.handle_command(self.now, command);
        self.turn();
    }

    fn part_from(&mut self, connection: u64) {
        let command = Command::Park {
            connection,
            memberships: vec![1],
            farewell: Farewell::Silent,
        };
        self.conductor.handle_command(self.now, command);
        self.turn();
    }
}

fn alice() -> Arc<Claims> {
    claims("authenticated", "alice")
}

fn bob() -> Arc<Claims> {
    claims("authenticated", "bob")
}

/// Somebody who was here, has handled the first change and is away; two changes and a deletion have come since.
fn away() -> Bench {
    let mut bench = Bench::new();
    bench.join(9);
    bench.come(1, alice(), false);
    for id in 1..=3 {
        bench.commit(OPEN, insert(id, "x"));
        bench.see_all();
        if id == 1 {
            assert_eq!(bench.read(1), ["subscribed", "INSERT 1 x."]);
            bench.acknowledge(1, 100);
            bench.part_from(1);
        }
    }
    bench.commit(MESSAGES, delete(7));
    bench.see_all();
    bench
}

const MISSED: [&str; 3] = ["INSERT 2 x.", "INSERT 3 x.", "DELETE 7 -."];

fn told(reason: ResyncReason) -> String {
    format!("{:?}", Notice::Unresumed(reason))
}

#[test]
fn who_comes_back_goes_on_where_it_was() {
    let mut bench = away();
    bench.come(2, alice(), false);
    bench.commit(OPEN, insert(4, "live"));
    bench.see_all();
    let read = bench.read(2);
    assert_eq!(read[0], "subscribed");
    assert_eq!(read[1..4], MISSED);
    assert_eq!(read[4..], ["INSERT 4 live."]);
}

#[test]
fn what_waited_behind_another_while_nobody_was_there_is_not_missed() {
    let mut bench = Bench::new();
    bench.come(1, alice(), false);
    assert_eq!(bench.read(1), ["subscribed"]);
    bench.commit(OPEN, insert(1, "waits"));
    bench.part_from(1);
    bench.commit(OPEN, insert(2, "behind it"));
    bench.resume_as(2, alice(), false);
    // The second is older than the join, and waits for the first.
    bench.see_for_some_time("100:102:100", 102);
    assert_eq!(bench.read(2), ["subscribed"]);
    bench.see_all();
    assert_eq!(bench.read(2), ["INSERT 1 waits.", "INSERT 2 behind it."]);
}

#[test]
fn the_end_of_a_transaction_is_told_whatever_it_holds() {
    let mut bench = Bench::new();
    bench.come(1, alice(), false);
    assert_eq!(bench.read(1), ["subscribed"]);
    bench.part_from(1);
    bench.part(100, OPEN, vec![insert(1, "x")], false);
    bench.resume_as(2, alice(), false);
    bench.see_for_some_time("101:101:", 101);
    assert_eq!(bench.read(2), ["subscribed"], "it may be the last");
    bench.part(100, UNBOUND, vec![insert(2, "y")], true);
    bench.horizon(101);
    assert_eq!(bench.read(2), ["INSERT 1 x."]);
}

#[test]
fn a_join_that_was_refused_takes_nothing_from_the_next_one() {
    for was_answered in [false, true] {
        let mut bench = away();
        if was_answered {
            bench.come(2, alice(), false);
        } else {
            bench.resume_as(2, alice(), false);
        }
        bench.conductor.handle_command(
            bench.now,
            Command::Unsubscribe {
                connection: 2,
                membership: 1,
            },
        );
        bench.turn();
        bench.come(3, alice(), false);
        let read = bench.read(3);
        // Who has left has nothing to come back for.
        assert_eq!(read[1..] == MISSED, !was_answered, "{read:?}");
        assert_eq!(read.len(), if was_answered { 1 } else { 4 }, "{read:?}");
    }
}

#[test]
fn what_was_sent_and_not_acknowledged_comes_again() {
    let mut bench = away();
    bench.come(2, alice(), false);
    assert_eq!(bench.read(2).len(), 4);
    bench.part_from(2);
    bench.come(3, alice(), false);
    assert_eq!(bench.read(3)[1..], MISSED);
    bench.acknowledge(3, 101);
    bench.part_from(3);
    bench.come(4, alice(), false);
    assert_eq!(bench.read(4)[1..], MISSED[1..]);
}

fn without_marks(mut read: Vec<String>) -> Vec<String> {
    read.retain(|told| !told.starts_with("Mark("));
    read
}

#[test]
fn another_subject_takes_nothing_and_is_told() {
    let mut bench = away();
    bench.come(2, bob(), false);
    bench.commit(OPEN, insert(4, "live"));
    bench.see_all();
    assert_eq!(bench.read(2), ["subscribed"], "what is live waits");
    bench.wait(Duration::from_secs(2));
    assert_eq!(
        without_marks(bench.read(2)),
        [told(ResyncReason::IdentityChanged), "INSERT 4 live.".into()]
    );
    bench.come(3, alice(), false);
    assert_eq!(bench.read(3)[1..4], MISSED, "nothing was taken");
}

#[test]
fn a_token_that_follows_in_time_restores_the_session() {
    let mut bench = away();
    bench.come(2, claims("anon", "nobody"), true);
    assert_eq!(bench.read(2), ["subscribed"]);
    let command = Command::Identify {
        connection: 2,
        membership: 1,
        claims: alice(),
    };
    bench.conductor.handle_command(bench.now, command);
    bench.turn();
    bench.wait(Duration::from_millis(100));
    assert_eq!(bench.read(2)[1..], MISSED);
}

/// Somebody who joined without a token, whose key may not see the first of two changes.
fn without_a_token() -> Bench {
    let mut bench = Bench::new();
    bench.join(1);
    bench.subscribe(2, claims("anon", "nobody"), true);
    bench.see_all();
    assert_eq!(bench.read(2), ["subscribed"]);
    bench.commit(MESSAGES, insert(1, "closed"));
    bench.commit(OPEN, insert(2, "open"));
    bench.see_all();
    for ask in std::mem::take(&mut bench.asked) {
        bench.answer(&ask, &[Found::Missing]);
    }
    bench
}

#[test]
fn nothing_overtakes_what_is_kept_for_a_token() {
    let mut bench = without_a_token();
    assert_eq!(bench.read(2), [""; 0]);
    let command = Command::Identify {
        connection: 2,
        membership: 1,
        claims: alice(),
    };
    bench.conductor.handle_command(bench.now, command);
    bench.turn();
    let ask = bench.question();
    bench.answer(&ask, &[Found::Same]);
    assert_eq!(
        bench.read(2),
        ["subscribed", "INSERT 1 closed.", "INSERT 2 open."]
    );
}

#[test]
fn what_was_kept_behind_it_is_given_if_no_token_comes() {
    let mut bench = without_a_token();
    bench.wait(Duration::from_secs(3));
    assert_eq!(bench.read(2), ["INSERT 2 open."]);
}

#[test]
fn a_second_socket_takes_nothing_from_one_that_answers() {
    let mut bench = Bench::new();
    bench.join(9);
    bench.come(1, alice(), false);
    bench.commit(OPEN, insert(1, "x"));
    bench.see_all();
    bench.come(2, alice(), false);
    let question = bench.probed(1);
    bench.answer_probe(1, question);
    bench.wait(Duration::from_millis(100));
    bench.commit(OPEN, insert(2, "y"));
    bench.see_all();
    assert_eq!(bench.read(2), ["subscribed", "INSERT 2 y."]);
    assert_eq!(bench.read(1), ["INSERT 2 y."]);
}

#[test]
fn what_the_stream_brings_again_is_not_asked_about() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.come(2, alice(), false);
    for connection in [1, 2] {
        // As after a restart: it has handled what the stream has still to bring.
        bench.acknowledge(connection, 102);
        bench.part_from(connection);
    }
    bench.next_xid = 103;
    bench.come(3, alice(), false);
    for xid in 100..102 {
        bench.part(xid, MESSAGES, vec![insert(u64::from(xid), "x")], true);
        bench.wait(Duration::from_millis(50));
        bench.see_for_some_time("103:103:", 103);
        assert!(bench.asked.is_empty());
    }
    bench.commit(MESSAGES, insert(103, "x"));
    bench.see_for_some_time("104:104:", 104);
    let ask = bench.question();
    bench.answer(&ask, &[Found::Same]);
    assert_eq!(bench.read(3), ["subscribed", "INSERT 103 x."]);
}

#[test]
fn a_socket_that_does_not_answer_is_replaced() {
    let mut bench = Bench::new();
    bench.join(9);
    bench.come(1, alice(), false);
    bench.commit(OPEN, insert(1, "x"));
    bench.see_all();
    bench.come(2, alice(), false);
    // A heartbeat of before it left.
    bench.acknowledge(1, 99);
    bench.wait(Duration::from_secs(3));
    assert_eq!(
        bench.read(1).last().unwrap(),
        &format!("{:?}", Notice::TakenOver)
    );
    assert_eq!(bench.read(2), ["subscribed", "INSERT 1 x."]);
}

#[test]
fn where_only_heartbeats_count_both_have_all_that_either_needs() {
    let mut bench = Bench::new();
    bench.join(9);
    bench.come_by_heartbeat(1);
    for id in 1..=2 {
        bench.commit(OPEN, insert(id, "x"));
        bench.see_all();
    }
    bench.acknowledge(1, 100);
    bench.come_by_heartbeat(2);
    assert_eq!(bench.read(2), ["subscribed", "INSERT 2 x."]);
    bench.acknowledge(2, 101);
    // The first was gone.
    bench.part_from(1);
    bench.part_from(2);
    bench.come_by_heartbeat(3);
    assert_eq!(bench.read(3), ["subscribed"]);
}

#[test]
fn who_lost_its_session_to_another_socket_is_told() {
    let mut bench = away();
    bench.come(2, bob(), false);
    bench.come(3, alice(), false);
    assert_eq!(bench.read(3)[1..], MISSED, "it may be somebody new");
    bench.come(4, alice(), false);
    let question = bench.probed(3);
    bench.answer_probe(3, question);
    bench.wait(Duration::from_millis(100));
    assert_eq!(
        without_marks(bench.read(4)),
        ["subscribed".to_owned(), told(ResyncReason::PositionGone)]
    );
}

#[test]
fn who_leaves_before_it_has_found_its_session_is_told() {
    let mut bench = Bench::new();
    bench.join(9);
    bench.come(1, alice(), false);
    bench.come(2, alice(), false);
    assert_eq!(bench.read(2), ["subscribed"]);
    let _unanswered = bench.probed(1);
    bench.part_from(2);
    bench.commit(OPEN, insert(1, "x"));
    bench.see_all();
    bench.come(3, alice(), false);
    let question = bench.probed(1);
    bench.answer_probe(1, question);
    bench.wait(Duration::from_millis(100));
    assert_eq!(
        without_marks(bench.read(3)),
        ["subscribed".to_owned(), told(ResyncReason::PositionGone)]
    );
}

#[test]
fn nobody_is_told_that_it_is_subscribed_before_its_session_is_stored() {
    let mut bench = Bench::new();
    let now = bench.now;
    bench.conductor.sessions().load(now, [], None, true);
    bench.join(9);
    bench.come(1, alice(), false);
    bench.commit(OPEN, insert(1, "x"));
    bench.see_all();
    assert_eq!(bench.read(1), [""; 0]);
    let batch = bench.conductor.sessions().take_changed();
    bench.conductor.handle_written(now, batch.number);
    bench.wait(Duration::from_millis(100));
    assert_eq!(bench.read(1), ["subscribed", "INSERT 1 x."]);
}

#[test]
fn no_mark_passes_the_news_that_something_was_missed() {
    let mut bench = Bench::new();
    let now = bench.now;
    // A session that is not known may have been.
    let until = now.checked_add(Duration::from_secs(60));
    bench.conductor.sessions().load(now, [], until, true);
    bench.join(9);
    bench.come(1, alice(), false);
    bench.commit(OPEN, insert(1, "x"));
    bench.see_all();
    let mark = |bench: &mut Bench| {
        let command = Command::Mark {
            connection: 1,
            memberships: vec![1],
        };
        bench.conductor.handle_command(bench.now, command);
        bench.turn();
        bench.read(1)
    };
    assert_eq!(mark(&mut bench), [""; 0]);
    let batch = bench.conductor.sessions().take_changed();
    bench.conductor.handle_written(now, batch.number);
    bench.wait(Duration::from_millis(100));
    let read = bench.read(1);
    assert_eq!(read[..2], ["subscribed", &told(ResyncReason::PositionGone)]);
    assert!(read[2].starts_with("Mark("), "{read:?}");
    assert_eq!(read[3..], ["INSERT 1 x."]);
    assert!(mark(&mut bench)[0].starts_with("Mark("));
}

#[test]
fn nor_before_the_session_that_it_waits_for_is() {
    let mut bench = Bench::new();
    let now = bench.now;
    bench.conductor.sessions().load(now, [], None, true);
    bench.come(1, alice(), false);
    // The first has left unnoticed, and the process may end before it is known that anybody was there.
    bench.come(2, alice(), false);
    assert_eq!(bench.read(2), [""; 0]);
    let batch = bench.conductor.sessions().take_changed();
    bench.conductor.handle_written(now, batch.number);
    bench.wait(Duration::from_millis(100));
    assert_eq!(bench.read(2), ["subscribed"]);
}

#[test]
fn a_position_that_is_gone_is_said_to_be() {
    let mut bench = away();
    bench.stream(StreamEvent::Started {
        epoch: Epoch(2),
        from: Lsn::new(5000),
        end: Lsn::new(5000),
        failed_over: false,
        messages: Some(5),
    });
    bench.next_xid = 501;
    bench.come(2, alice(), false);
    assert_eq!(
        without_marks(bench.read(2)),
        ["subscribed".to_owned(), told(ResyncReason::PositionGone)]
    );
    bench.commit(OPEN, insert(4, "live"));
    bench.see_all();
    assert_eq!(bench.read(2), ["INSERT 4 live."]);
}

#[test]
fn quiet_channels_get_on_as_well() {
    let mut bench = Bench::new();
    bench.join(9);
    bench.come(1, alice(), false);
    assert_eq!(bench.read(1), ["subscribed"]);
    for xid in 100..103 {
        bench.part(xid, UNBOUND, vec![insert(1, "x")], true);
    }
    let command = Command::Mark {
        connection: 1,
        memberships: vec![1],
    };
    bench.conductor.handle_command(bench.now, command);
    bench.turn();
    let mark = Notice::Mark(Cursor {
        epoch: Epoch(1),
        // Behind the end of the last of them.
        commit_lsn: Lsn::new(1024),
        order: u32::MAX,
    });
    assert_eq!(bench.read(1), [format!("{mark:?}")]);
}

#[test]
fn who_may_not_have_heard_that_it_must_start_over_is_told_again() {
    let mut bench = away();
    bench.stream(StreamEvent::Started {
        epoch: Epoch(2),
        from: Lsn::new(5000),
        end: Lsn::new(5000),
        failed_over: false,
        messages: Some(5),
    });
    bench.next_xid = 501;
    for connection in [2, 3] {
        bench.come(connection, alice(), false);
        assert_eq!(
            without_marks(bench.read(connection)),
            ["subscribed".to_owned(), told(ResyncReason::PositionGone)]
        );
        bench.part_from(connection);
    }
}
