//! When members of private topics are told to ask again.

use super::*;

#[test]
fn another_epoch_calls_permissions_into_doubt() {
    let mut bench = Bench::new();
    for (epoch, doubts) in [(1, false), (2, true), (2, false)] {
        bench.stream(StreamEvent::Started {
            epoch: Epoch(epoch),
            from: Lsn::ZERO,
            end: Lsn::ZERO,
            failed_over: false,
            messages: Some(5),
        });
        assert!(bench.said.is_empty(), "nothing was seen yet");
        if doubts {
            bench.see_all();
            assert_eq!(std::mem::take(&mut bench.said), ["doubt"]);
        }
        assert!(!bench.wants_horizon);
    }
}

#[test]
fn what_went_by_while_other_policies_were_known_is_looked_at_once_it_is_visible() {
    let mut bench = Bench::new();
    bench.subscribe(1, claims("authenticated", "1"), false);
    bench.see_all();
    let alter = |bench: &mut Bench, fingerprint| {
        bench.fingerprint = fingerprint;
        bench.conductor.handle_connected(bench.now);
        bench.turn();
    };
    // Members are told of another catalog by themselves.
    alter(&mut bench, "b");
    assert!(!bench.wants_horizon);
    // Nobody is concerned by this, as far as is known.
    let unseen = bench.next_xid;
    bench.part(unseen, UNBOUND, vec![insert(1, "x")], true);
    bench.next_xid += 1;
    alter(&mut bench, "c");
    bench.horizon(unseen);
    assert!(bench.said.is_empty() && !bench.wants_horizon);
    bench.now += Duration::from_millis(100);
    bench.conductor.handle_timeout(bench.now);
    bench.turn();
    bench.see_all();
    assert_eq!(bench.said, ["doubt"]);
    assert!(!bench.wants_horizon, "once is enough");
}

#[test]
fn what_went_by_while_no_policies_were_known_is_looked_at_when_they_are() {
    let mut bench = Bench::compiling(true);
    let known = crate::pipeline::verdicts::tests::looking("a", MESSAGES, "authenticated");
    bench.conductor.expect_knowledge(Some(known));
    bench.conductor.handle_connected(bench.now);
    bench.turn();
    bench.see_all();
    assert_eq!(bench.said, ["doubt"]);
}
