//! What compiled policies ask of the stream and of memory.

use super::*;

#[test]
fn what_concerns_nobody_but_plans_waits_for_what_is_before_it_and_for_no_snapshot() {
    let mut bench = Bench::compiling(true);
    bench.subscribe(1, claims("authenticated", "1"), false);
    bench.see_all();
    assert_eq!(bench.read(1), ["subscribed"]);
    let nobodys = |bench: &mut Bench| {
        let xid = bench.next_xid;
        bench.next_xid += 1;
        bench.part(xid, UNBOUND, vec![insert(1, "x")], true);
    };
    nobodys(&mut bench);
    assert!(!bench.wants_horizon, "nobody waits for it");
    bench.commit(OPEN, insert(1, "a"));
    let seen = bench.next_xid;
    nobodys(&mut bench);
    assert!(bench.wants_horizon);
    bench.horizon(seen);
    assert_eq!(bench.read(1), ["INSERT 1 a."]);
    assert!(!bench.wants_horizon, "nothing waits any more");
    nobodys(&mut bench);
    assert!(!bench.wants_horizon);
    bench.commit(OPEN, insert(2, "b"));
    bench.see_all();
    assert_eq!(bench.read(1), ["INSERT 2 b."]);
}

#[test]
fn tables_that_nobody_needs_any_more_leave_the_memory_in_time() {
    let mut bench = Bench::compiling(true);
    let known = crate::pipeline::verdicts::tests::looking("a", MESSAGES, "authenticated");
    bench.conductor.expect_knowledge(Some(known));
    bench
        .conductor
        .handle_catalog(bench.now, Some(catalog("a")));
    bench.subscribe(1, claims("authenticated", "alice"), false);
    let sizes = |bench: &Bench| {
        let state = bench.conductor.policy_state();
        (state.plans.len(), state.shadows.len())
    };
    assert_eq!(sizes(&bench), (1, 1));
    bench.conductor.handle_command(
        bench.now,
        Command::Unsubscribe {
            connection: 1,
            membership: 1,
        },
    );
    let mut steps = 0;
    let left = bench.now;
    while sizes(&bench) != (0, 0) {
        bench.now = bench.conductor.next_timeout().unwrap().max(bench.now);
        bench.conductor.handle_timeout(bench.now);
        steps += 1;
        assert!(steps < 100);
    }
    let took = bench.now.duration_since(left);
    assert!(took > Duration::from_secs(20) && took < Duration::from_secs(120));
}
