//! When a transaction is released, and to whom.

use super::*;

#[test]
fn a_transaction_that_the_snapshot_does_not_show_waits() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.commit(OPEN, insert(1, "hi"));
    // A few looks at once, then after a pause.
    for _ in 0..9 {
        bench.horizon(100);
    }
    assert!(!bench.wants_horizon);
    assert_eq!(bench.read(1), [""; 0]);
    bench.now = bench.conductor.next_timeout().unwrap();
    bench.conductor.handle_timeout(bench.now);
    bench.turn();
    bench.see_all();
    assert_eq!(bench.read(1), ["INSERT 1 hi."]);
}

#[test]
fn a_subscription_begins_with_its_snapshot() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.commit(OPEN, insert(1, "before"));
    bench.subscribe(2, claims("authenticated", "2"), false);
    // Begun before the subscription was there: it proves nothing about it.
    bench.horizon(100);
    bench.now += Duration::from_secs(1);
    bench.conductor.handle_timeout(bench.now);
    bench.turn();
    bench.horizon(101);
    bench.commit(OPEN, insert(2, "after"));
    bench.see_all();
    assert_eq!(bench.read(2), ["subscribed", "INSERT 2 after."]);
    assert_eq!(bench.read(1), ["INSERT 1 before.", "INSERT 2 after."]);
}

#[test]
fn the_stream_may_lag_behind_a_subscription() {
    let mut bench = Bench::new();
    bench.next_xid = 110;
    bench.join(1);
    bench.part(105, OPEN, vec![insert(1, "old news")], true);
    bench.part(120, OPEN, vec![insert(2, "news")], true);
    bench.horizon(130);
    assert_eq!(bench.read(1), ["INSERT 2 news."]);
}

#[test]
fn who_joins_between_two_parts_of_a_transaction_does_not_get_the_second_alone() {
    let mut bench = Bench::new();
    let xid = bench.next_xid;
    bench.part(xid, OPEN, vec![insert(1, "first part")], false);
    bench.subscribe(1, claims("authenticated", "1"), false);
    bench.part(xid, OPEN, vec![insert(2, "second part")], true);
    bench.next_xid += 1;
    bench.horizon(xid);
    assert_eq!(bench.read(1), [""; 0], "it begins when it can see both");
    bench.now += Duration::from_secs(1);
    bench.conductor.handle_timeout(bench.now);
    bench.turn();
    bench.see_all();
    bench.commit(OPEN, insert(3, "later"));
    bench.see_all();
    assert_eq!(bench.read(1), ["subscribed", "INSERT 3 later."]);
}

#[test]
fn what_waited_for_others_is_no_business_of_who_joins_later() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.commit(MESSAGES, insert(1, "before"));
    bench.see_all();
    let open = bench.question();
    bench.subscribe(2, claims("authenticated", "1"), false);
    bench.see_all();
    bench.catch_up();
    bench.commit(OPEN, insert(2, "after"));
    bench.see_all();
    bench.answer(&open, &[Found::Same]);
    assert_eq!(bench.read(1), ["INSERT 1 before.", "INSERT 2 after."]);
    assert_eq!(bench.read(2), ["subscribed", "INSERT 2 after."]);
}

#[test]
fn the_last_change_of_a_transaction_is_marked_across_parts() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.part(100, OPEN, vec![insert(1, "a"), insert(2, "b")], false);
    bench.part(100, OPEN, vec![insert(3, "c")], false);
    bench.part(100, 999, vec![insert(4, "unpublished")], true);
    bench.horizon(101);
    assert_eq!(bench.read(1), ["INSERT 1 a", "INSERT 2 b", "INSERT 3 c."]);
}

#[test]
fn a_transaction_that_comes_again_after_a_reconnect_goes_on_where_it_was() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.part(100, OPEN, vec![insert(1, "a"), insert(2, "b")], false);
    bench.stream(StreamEvent::Interrupted);
    bench.stream(StreamEvent::Started {
        epoch: Epoch(1),
        from: Lsn::ZERO,
        end: Lsn::ZERO,
        failed_over: false,
        messages: Some(5),
    });
    bench.next_order = 0;
    bench.part(
        100,
        OPEN,
        vec![insert(1, "a"), insert(2, "b"), insert(3, "c")],
        true,
    );
    bench.horizon(101);
    assert_eq!(bench.read(1), ["INSERT 1 a", "INSERT 2 b", "INSERT 3 c."]);
}

#[test]
fn another_epoch_makes_everybody_start_over() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.stream(StreamEvent::Started {
        epoch: Epoch(1),
        from: Lsn::ZERO,
        end: Lsn::ZERO,
        failed_over: false,
        messages: Some(5),
    });
    assert_eq!(bench.read(1), [""; 0], "a reconnect is no new epoch");
    bench.stream(StreamEvent::Started {
        epoch: Epoch(2),
        from: Lsn::ZERO,
        end: Lsn::ZERO,
        failed_over: false,
        messages: Some(5),
    });
    assert_eq!(
        bench.read(1),
        [format!("{:?}", Notice::Resync(ResyncReason::SlotRecreated))]
    );
}

#[test]
fn policies_are_looked_at_also_while_nothing_happens() {
    let mut bench = Bench::new();
    assert!(!bench.wants_horizon);
    bench.now = bench.conductor.next_timeout().unwrap();
    bench.conductor.handle_timeout(bench.now);
    bench.turn();
    assert!(bench.wants_horizon, "somebody may be in a private room");
}
