//! Bindings that the catalog at hand does not allow.

use super::*;

const NO: &str = "Refused(\"no\")";

/// Somebody has joined whose bindings the catalog at hand does not allow.
fn refused() -> Bench {
    let mut bench = Bench::new();
    bench.refuses_under = Some("a");
    bench.subscribe(1, claims("authenticated", "1"), false);
    assert_eq!(bench.read(1), [""; 0], "the catalog may be old");
    bench
}

#[test]
fn what_the_current_catalog_does_not_allow_is_refused() {
    let mut bench = refused();
    bench.see_all();
    assert_eq!(bench.read(1), [NO]);
    assert!(!bench.wants_horizon);
}

#[test]
fn what_an_old_catalog_does_not_allow_is_checked_again() {
    let mut bench = refused();
    bench.fingerprint = "b";
    bench.see_all();
    assert_eq!(bench.read(1), [""; 0]);
    bench.see_all();
    assert_eq!(bench.read(1), ["subscribed"]);
    bench.commit(OPEN, insert(1, "hi"));
    bench.see_all();
    assert_eq!(bench.read(1), ["INSERT 1 hi."]);
}

#[test]
fn a_snapshot_that_began_before_the_join_does_not_tell_whether_the_catalog_is_old() {
    let mut bench = Bench::new();
    bench.join(2);
    bench.commit(OPEN, insert(1, "before"));
    assert!(bench.wants_horizon);
    bench.refuses_under = Some("a");
    bench.subscribe(1, claims("authenticated", "1"), false);
    bench.see_all();
    assert_eq!(bench.read(1), [""; 0]);
    bench.fingerprint = "b";
    bench.see_all();
    bench.see_all();
    assert_eq!(bench.read(1), ["subscribed"]);
}

#[test]
fn a_token_that_is_refused_ends_what_was_in_force_at_once() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.refuses_under = Some("a");
    let command = Command::Identify {
        connection: 1,
        membership: 1,
        claims: claims("nobody", "1"),
    };
    bench.conductor.handle_command(bench.now, command);
    bench.turn();
    bench.commit(OPEN, insert(1, "hi"));
    bench.see_all();
    assert_eq!(bench.read(1), [NO]);
}

#[test]
fn who_leaves_before_is_told_nothing() {
    let mut bench = refused();
    let command = Command::Unsubscribe {
        connection: 1,
        membership: 1,
    };
    bench.conductor.handle_command(bench.now, command);
    bench.turn();
    bench.see_all();
    assert_eq!(bench.read(1), [""; 0]);
}
