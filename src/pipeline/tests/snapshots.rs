//! Subscribers that ask for what is there already: the test is the database that answers.

use super::*;
use crate::realtime::{SnapshotLimit, SnapshotRefusal};

impl Bench {
    /// A subscriber with a snapshot, in force and waiting for it.
    fn await_snapshot(&mut self, connection: u64, claims: Arc<Claims>, grace: bool) {
        self.subscribe_with(
            connection,
            claims,
            grace,
            r#"{"event":"*","schema":"public","table":"*","snapshot":true}"#,
        );
        self.see_all();
    }

    /// A connection for snapshots becomes free.
    fn free(&mut self) {
        self.conductor.handle_snapshot_idle(self.now);
        self.turn();
    }

    /// Takes the only request.
    fn request(&mut self) -> SnapshotRequest {
        assert_eq!(self.snapshots.len(), 1, "one snapshot is being taken");
        self.snapshots.remove(0)
    }

    fn outcome(&mut self, request: SnapshotRequest, outcome: SnapshotOutcome) {
        let SnapshotRequest {
            ticket, identity, ..
        } = request;
        self.conductor
            .handle_snapshot(self.now, ticket, identity, outcome);
        self.turn();
    }

    /// Answers with these rows, as of this snapshot.
    fn hand_over(&mut self, mut request: SnapshotRequest, snapshot: &str, rows: &[&str]) {
        let share = std::mem::replace(&mut request.share, Allowance::new(1).take(1).unwrap());
        let mut keeper = Keeper::new(std::env::temp_dir(), share);
        for row in rows {
            keeper.append(row.as_bytes()).unwrap();
        }
        let count = u32::try_from(rows.len()).unwrap();
        let runs = if count == 0 {
            vec![]
        } else {
            vec![(7, 0, count)]
        };
        let taken = Taken {
            snapshot: snapshot.parse().unwrap(),
            insert_lsn: Lsn::new(u64::from(self.next_xid) * 10),
            kept: Arc::new(keeper.finish().unwrap()),
            runs,
        };
        self.outcome(request, SnapshotOutcome::Taken(taken));
    }
}

fn somebody(subject: &str) -> Arc<Claims> {
    claims("authenticated", subject)
}

#[test]
fn rows_come_first_and_then_what_they_do_not_hold() {
    let mut bench = Bench::new();
    bench.await_snapshot(1, somebody("1"), false);
    bench.free();
    assert_eq!(bench.read(1), [""; 0], "the reply waits for the snapshot");
    let request = bench.request();
    bench.commit(OPEN, insert(1, "held"));
    bench.commit(OPEN, insert(2, "not held"));
    bench.see_all();
    bench.hand_over(request, "101:101:", &["row 1", "row 2"]);
    let told = ["subscribed", "SNAPSHOT row 1", "SNAPSHOT row 2", "complete"];
    let all = bench.read(1);
    assert_eq!(all[..4], told);
    assert_eq!(all[4..], ["INSERT 2 not held."]);
    bench.commit(OPEN, insert(3, "later"));
    bench.see_all();
    assert_eq!(bench.read(1), ["INSERT 3 later."]);
}

#[test]
fn what_is_held_is_told_by_transaction_whatever_the_order_of_the_stream() {
    let mut bench = Bench::new();
    bench.await_snapshot(1, somebody("1"), false);
    bench.free();
    let request = bench.request();
    bench.part(105, OPEN, vec![insert(5, "visible early")], true);
    bench.part(103, OPEN, vec![insert(3, "visible late")], true);
    bench.part(107, OPEN, vec![insert(7, "begins")], false);
    bench.next_xid = 110;
    bench.hand_over(request, "103:108:103,107", &[]);
    // The stream is behind the snapshot.
    bench.part(107, OPEN, vec![insert(8, "ends")], true);
    bench.part(104, OPEN, vec![insert(4, "visible early as well")], true);
    bench.see_all();
    let told = bench.read(1);
    assert_eq!(told[..2], ["subscribed", "complete"]);
    assert_eq!(
        told[2..],
        [
            "INSERT 3 visible late.",
            "INSERT 7 begins",
            "INSERT 8 ends."
        ]
    );
}

#[test]
fn versions_that_others_never_saw_do_not_hide_a_deletion() {
    let mut bench = Bench::new();
    bench.join(1);
    // The same identity, so that they would share a lane.
    bench.await_snapshot(2, somebody("1"), false);
    bench.free();
    let request = bench.request();
    bench.commit(MESSAGES, insert(1, "one"));
    bench.see_all();
    let first = bench.question();
    bench.answer(&first, &[Found::Different]);
    bench.hand_over(request, "101:101:", &["row 1"]);
    bench.commit(MESSAGES, delete(1));
    bench.see_all();
    assert_eq!(bench.read(1), ["DELETE 1 -."]);
    let told = bench.read(2);
    assert_eq!(
        told,
        ["subscribed", "SNAPSHOT row 1", "complete", "DELETE 1 -."]
    );
}

#[test]
fn lanes_are_shared_again_once_all_is_settled() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.await_snapshot(2, somebody("1"), false);
    bench.free();
    assert_eq!(bench.conductor.sizes().1, 2);
    let request = bench.request();
    bench.commit(MESSAGES, insert(1, "one"));
    bench.see_all();
    bench.hand_over(request, "100:100:", &[]);
    assert_eq!(bench.asked.len(), 2, "each lane asks for itself");
    let (first, second) = (bench.asked.remove(0), bench.asked.remove(0));
    bench.answer(&first, &[Found::Same]);
    bench.catch_up();
    bench.commit(OPEN, insert(2, "two"));
    bench.see_all();
    assert_eq!(bench.conductor.sizes().1, 2, "an answer is outstanding");
    bench.answer(&second, &[Found::Same]);
    bench.commit(OPEN, insert(3, "three"));
    bench.see_all();
    bench.commit(OPEN, insert(4, "four"));
    bench.see_all();
    assert_eq!(bench.conductor.sizes().1, 1);
    bench.commit(OPEN, insert(5, "five"));
    bench.see_all();
    let rows = [
        "INSERT 1 one.",
        "INSERT 2 two.",
        "INSERT 3 three.",
        "INSERT 4 four.",
        "INSERT 5 five.",
    ];
    assert_eq!(bench.read(1), rows);
    let told = bench.read(2);
    assert_eq!(told[..2], ["subscribed", "complete"]);
    assert_eq!(told[2..], rows);
}

#[test]
fn a_new_token_gets_a_snapshot_of_its_own() {
    let mut bench = Bench::new();
    bench.await_snapshot(1, somebody("1"), false);
    bench.free();
    let first = bench.request();
    bench.commit(MESSAGES, insert(1, "for the old one"));
    bench.see_all();
    let command = Command::Identify {
        connection: 1,
        membership: 1,
        claims: somebody("2"),
    };
    bench.conductor.handle_command(bench.now, command);
    bench.turn();
    bench.hand_over(first, "100:100:", &["secret of the old one"]);
    assert_eq!(bench.read(1), [""; 0]);
    bench.free();
    let second = bench.request();
    assert!(second.identity.claims().contains("\"2\""));
    bench.hand_over(second, "101:101:", &["row"]);
    assert_eq!(bench.read(1), ["subscribed", "SNAPSHOT row", "complete"]);
}

#[test]
fn who_may_send_a_token_after_the_reply_is_answered_at_once() {
    let mut bench = Bench::new();
    bench.free();
    bench.await_snapshot(1, claims("anon", ""), true);
    assert_eq!(bench.read(1), ["subscribed"]);
    assert!(bench.snapshots.is_empty());
    bench.commit(OPEN, insert(1, "will be in it"));
    bench.see_all();
    let command = Command::Identify {
        connection: 1,
        membership: 1,
        claims: somebody("1"),
    };
    bench.conductor.handle_command(bench.now, command);
    bench.turn();
    let request = bench.request();
    assert_eq!(request.identity.role(), "authenticated");
    bench.hand_over(request, "101:101:", &["row"]);
    assert_eq!(bench.read(1), ["subscribed", "SNAPSHOT row", "complete"]);
}

#[test]
fn without_a_token_the_snapshot_is_for_the_key() {
    let mut bench = Bench::new();
    bench.free();
    bench.await_snapshot(1, claims("anon", ""), true);
    bench.now = bench.conductor.next_timeout().unwrap();
    bench.now += Duration::from_secs(2);
    bench.conductor.handle_timeout(bench.now);
    bench.turn();
    assert_eq!(bench.request().identity.role(), "anon");
}

#[test]
fn a_refusal_ends_the_subscription() {
    let mut bench = Bench::new();
    bench.free();
    bench.await_snapshot(1, somebody("1"), false);
    let request = bench.request();
    bench.commit(OPEN, insert(1, "nobody's"));
    bench.see_all();
    let limit = SnapshotRefusal::TooLarge(SnapshotLimit::Rows(5));
    bench.outcome(request, SnapshotOutcome::Refused(limit));
    assert_eq!(bench.read(1), ["SnapshotRefused(TooLarge(Rows(5)))"]);
    assert_eq!(bench.conductor.sizes(), (0, 0));
}

#[test]
fn an_outdated_catalog_and_a_broken_connection_begin_it_again() {
    let mut bench = Bench::new();
    bench.free();
    bench.await_snapshot(1, somebody("1"), false);
    let loads = bench.loads;
    for outcome in [
        SnapshotOutcome::Outdated(None),
        SnapshotOutcome::Again,
        SnapshotOutcome::Outdated(Some("42P01".into())),
    ] {
        let request = bench.request();
        bench.outcome(request, outcome);
        assert!(bench.snapshots.is_empty());
        bench.free();
    }
    // A policy may name what is not there as often as it likes: only a catalog that is known to be old is read again.
    assert_eq!(bench.loads, loads + 1);
    for _ in 0..3 {
        let request = bench.request();
        bench.outcome(request, SnapshotOutcome::Outdated(Some("42P01".into())));
        bench.free();
    }
    assert_eq!(bench.loads, loads + 1);
    assert_eq!(bench.read(1), ["SnapshotRefused(Policy(\"42P01\"))"]);
}

#[test]
fn identities_take_turns_and_slow_ones_stand_behind() {
    let mut bench = Bench::new();
    for (connection, subject) in [(1, "a"), (2, "a"), (3, "b"), (4, "c")] {
        bench.await_snapshot(connection, somebody(subject), false);
    }
    let subjects = |bench: &mut Bench, count: usize| -> Vec<String> {
        let mut subjects = Vec::new();
        for _ in 0..count {
            bench.free();
            let request = bench.request();
            subjects.push(request.identity.claims().to_owned());
            let slow = SnapshotRefusal::Policy("57014".into());
            bench.outcome(request, SnapshotOutcome::Refused(slow));
        }
        subjects
    };
    let claim = |subject: &str| format!("{{\"sub\":\"{subject}\"}}");
    let turns = subjects(&mut bench, 4);
    assert_eq!(turns, ["a", "b", "c", "a"].map(claim));
    bench.await_snapshot(5, somebody("a"), false);
    bench.await_snapshot(6, somebody("new"), false);
    assert_eq!(subjects(&mut bench, 2), ["new", "a"].map(claim));
}

#[test]
fn who_leaves_is_no_longer_waited_for() {
    let mut bench = Bench::new();
    bench.free();
    bench.await_snapshot(1, somebody("1"), false);
    let request = bench.request();
    bench.conductor.handle_command(
        bench.now,
        Command::Unsubscribe {
            connection: 1,
            membership: 1,
        },
    );
    bench.turn();
    bench.hand_over(request, "101:101:", &["row"]);
    assert_eq!(bench.read(1), [""; 0]);
}

#[test]
fn room_for_rows_is_waited_for() {
    let mut bench = Bench::new();
    bench.free();
    bench.free();
    let everything = Allowance::clone(&bench.allowance).take(1 << 20).unwrap();
    bench.await_snapshot(1, somebody("1"), false);
    assert!(bench.snapshots.is_empty());
    drop(everything);
    bench.now = bench.conductor.next_timeout().unwrap();
    bench.conductor.handle_timeout(bench.now);
    bench.turn();
    assert_eq!(bench.snapshots.len(), 1);
}

#[test]
fn a_malformed_wish_is_told_as_such() {
    let mut bench = Bench::new();
    bench.subscribe_with(
        1,
        somebody("1"),
        false,
        r#"{"schema":"public","snapshot":1}"#,
    );
    let told = bench.read(1);
    assert!(
        told[0].starts_with("SnapshotRefused(Malformed("),
        "{told:?}"
    );
    assert_eq!(bench.conductor.sizes(), (0, 0));
}

#[test]
fn turns_of_those_who_left_do_not_pile_up() {
    let mut bench = Bench::new();
    for round in 0..3000 {
        bench.await_snapshot(1, somebody(&(round % 7).to_string()), false);
    }
    bench.await_snapshot(2, somebody("x"), false);
    assert!(bench.conductor.snapshot_turns() <= 1100);
    bench.free();
    bench.free();
    let subjects: Vec<_> = (bench.snapshots.iter())
        .map(|request| request.identity.claims().to_owned())
        .collect();
    assert_eq!(subjects.len(), 2, "{subjects:?}");
    assert!(subjects.contains(&"{\"sub\":\"x\"}".to_owned()));
}
