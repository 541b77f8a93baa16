//! What the database says.

use super::*;

#[test]
fn what_the_database_says_is_said_once_it_is_visible_and_in_order() {
    let mut bench = Bench::new();
    bench.commit(ROOT, spoken(1, "a"));
    bench.commit(PARTITION, spoken(2, "b"));
    assert!(bench.said.is_empty(), "no snapshot has shown it");
    bench.horizon(101);
    assert_eq!(bench.said, ["a true 1"]);
    bench.see_all();
    assert_eq!(bench.said, ["a true 1", "b true 2"]);
}

#[test]
fn a_row_of_another_table_or_another_action_says_nothing() {
    let mut bench = Bench::new();
    bench.join(1);
    let ChangeKind::Insert { new } = spoken(1, "a") else {
        panic!("not an insert")
    };
    bench.commit(ROOT, ChangeKind::Update { old: None, new });
    bench.commit(ROOT, ChangeKind::Truncate);
    bench.commit(OPEN, insert(1, "hi"));
    bench.commit(ROOT, spoken(2, ""));
    bench.see_all();
    assert!(bench.said.is_empty(), "{:?}", bench.said);
    assert_eq!(bench.conductor.counts().unsendable.empty_topic, 1);
    assert_eq!(
        bench.read(1),
        ["INSERT 1 hi."],
        "nothing of the other table"
    );
}

#[test]
fn a_partition_that_the_catalog_does_not_know_yet_waits_for_it() {
    let mut bench = Bench::new();
    bench.commit(999, spoken(1, "a"));
    assert!(bench.wants_horizon, "it may be a new partition");
}

#[test]
fn broadcasts_wait_for_no_lane() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.commit(MESSAGES, insert(1, "slow"));
    bench.see_all();
    let ask = bench.question();
    bench.commit(ROOT, spoken(1, "a"));
    bench.see_all();
    assert_eq!(bench.said, ["a true 1"]);
    bench.answer(&ask, &[Found::Same]);
    assert_eq!(bench.read(1), ["INSERT 1 slow."]);
}

#[test]
fn a_large_transaction_is_said_a_little_at_a_time_and_confirmed_after_it() {
    let mut bench = Bench::new();
    let many = (0..100).map(|id| spoken(id, "a")).collect();
    bench.part(100, ROOT, many, true);
    bench.next_xid = 101;
    assert!(std::mem::take(&mut bench.wants_horizon));
    let horizon = Horizon {
        snapshot: "101:101:".parse().unwrap(),
        insert_lsn: Lsn::new(1010),
        fingerprint: "a".into(),
    };
    bench.conductor.handle_horizon(bench.now, Some(horizon));
    let mut said = 0;
    let mut turns = 0;
    loop {
        let mut outputs = Vec::new();
        while let Some(output) = bench.conductor.poll_output() {
            outputs.push(output);
        }
        let is_say = |output: &&Output| matches!(output, Output::Say { .. });
        let now = outputs.iter().filter(is_say).count();
        assert!(now <= 32, "{now} at once");
        said += now;
        let confirmed = outputs
            .iter()
            .any(|output| matches!(output, Output::Confirm(..)));
        assert_eq!(confirmed, said == 100);
        turns += 1;
        if !bench.conductor.is_releasing() {
            break;
        }
        bench.conductor.go_on(bench.now);
    }
    assert_eq!((said, turns), (100, 4));
}
