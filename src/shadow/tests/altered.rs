//! What DDL does to tables in memory: those that were altered are read again, and no others.

use super::*;
use crate::shadow::{Prints, State};

fn prints(print: &str) -> Arc<Prints> {
    Arc::new(Prints::from([(TABLE, print.into())]))
}

fn state(shadow: &Shadow) -> State {
    shadow.status().pop().unwrap().state
}

fn small(limits: Limits) -> Shadow {
    let mut shadow = Shadow::new(limits);
    shadow.describe(&prints("a"));
    shadow.want(vec![spec(&[0, 1])]);
    shadow
}

#[test]
fn a_table_stays_while_it_is_described_as_before() {
    let mut shadow = small(LIMITS);
    let request = shadow.loads().pop().unwrap();
    shadow.loaded(loaded(&request, 5, &[1, 2], "a"));
    let trusted = State::Trusted { from: Lsn::new(5) };
    assert_eq!(state(&shadow), trusted);
    shadow.describe(&prints("a"));
    assert_eq!(state(&shadow), trusted);
    shadow.apply(&insertion(10, 5, 3));
    assert!(shadow.is_trusted(&[TABLE], Lsn::new(10)));
    shadow.describe(&prints("b"));
    assert!(!shadow.is_trusted(&[TABLE], Lsn::new(10)));
    assert!(matches!(state(&shadow), State::Invalid { .. }));
    let request = shadow.loads().pop().unwrap();
    shadow.loaded(loaded(&request, 15, &[1, 2, 3], "b"));
    assert_eq!(state(&shadow), State::Trusted { from: Lsn::new(15) });
    let status = shadow.status().pop().unwrap();
    assert_eq!(status.loads, 2);
    assert!(status.why.unwrap().contains("altered"));
}

#[test]
fn a_load_counts_only_for_the_description_that_it_was_begun_under() {
    let mut shadow = small(LIMITS);
    // Altered after it was described and before it was read: its columns may be others.
    let request = shadow.loads().pop().unwrap();
    shadow.loaded(loaded(&request, 5, &[1], "b"));
    assert!(matches!(state(&shadow), State::Invalid { .. }));
    // Altered after it was read: what was read is not there any more.
    let request = shadow.loads().pop().unwrap();
    shadow.describe(&prints("b"));
    shadow.loaded(loaded(&request, 6, &[1], "a"));
    assert!(matches!(state(&shadow), State::Invalid { .. }));
    let request = shadow.loads().pop().unwrap();
    shadow.loaded(loaded(&request, 7, &[1], "b"));
    assert_eq!(state(&shadow), State::Trusted { from: Lsn::new(7) });
    // A table that nobody describes is gone.
    shadow.describe(&Arc::default());
    assert!(matches!(state(&shadow), State::Invalid { .. }));
}

#[test]
fn a_table_over_the_limit_is_tried_again_less_and_less_often_and_at_once_when_emptied() {
    let limits = Limits {
        bytes_max: 100,
        retained_bytes_max: 1 << 20,
        undo_bytes_max: 1 << 20,
    };
    let mut shadow = small(limits);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let request = shadow.loads().pop().unwrap();
        let ids: Vec<i64> = (0..100).collect();
        shadow.loaded(loaded(&request, 5, &ids, "a"));
        assert_eq!(state(&shadow), State::TooLarge);
        assert_eq!(shadow.bytes(), 0);
        shadow.describe(&prints("a"));
        let mut pause = 0;
        while state(&shadow) == State::TooLarge {
            shadow.reconsider();
            pause += 1;
        }
        pauses.push(pause);
    }
    assert_eq!(pauses, [3, 5, 9, 17, 33, 65, 65, 65]);
    let request = shadow.loads().pop().unwrap();
    let ids: Vec<i64> = (0..100).collect();
    shadow.loaded(loaded(&request, 5, &ids, "a"));
    assert_eq!(state(&shadow), State::TooLarge);
    let emptied = part(
        &commit(20, 30),
        &relation(ReplicaIdentity::Default),
        0,
        vec![ChangeKind::Truncate],
        true,
    );
    shadow.apply(&emptied);
    assert!(matches!(state(&shadow), State::Invalid { .. }));
}
