//! Of the past as a whole.

use super::*;
use crate::change::{Datum, Epoch, Relation, ReplicaIdentity, TupleBuilder, Xid};
use proptest::collection::vec;
use proptest::prelude::*;

fn part(lsn: u64, changes: u32, last: bool) -> TransactionPart {
    let relation = Arc::new(Relation {
        oid: 1,
        schema: "public".into(),
        name: "t".into(),
        identity: ReplicaIdentity::Default,
        columns: [].into(),
    });
    let mut builder = TupleBuilder::new();
    builder.push(Datum::Text(b"0123456789"));
    let new = builder.build();
    let change = |order| Change {
        relation: Arc::clone(&relation),
        order,
        kind: ChangeKind::Insert { new: new.clone() },
    };
    TransactionPart {
        commit: Arc::new(Commit {
            epoch: Epoch(1),
            lsn: Lsn::new(lsn),
            end_lsn: Lsn::new(lsn + 1),
            time: PgTime(i64::try_from(lsn).unwrap()),
            xid: Xid(7),
        }),
        changes: (0..changes).map(change).collect(),
        size: 100,
        last,
    }
}

fn position(lsn: u64, order: u32) -> Position {
    Position {
        lsn: Lsn::new(lsn),
        order,
    }
}

/// One that has no file.
fn history(bytes_max: usize) -> History {
    begun(Limits {
        file_bytes_max: 0,
        ..limits(bytes_max)
    })
}

fn limits(bytes_max: usize) -> Limits {
    Limits {
        bytes_max,
        transaction_bytes_max: bytes_max / 4,
        file_bytes_max: 1 << 20,
        directory: std::env::temp_dir(),
        age_max: Duration::from_secs(60),
    }
}

fn begun(limits: Limits) -> History {
    let mut history = History::new(limits);
    history.begin(Lsn::new(100));
    history
}

impl History {
    /// Every figure is what can be counted, and no limit is exceeded.
    #[track_caller]
    fn check(&self, besides: usize) {
        let sum = |of: fn(&Entry) -> usize| self.entries.iter().map(of).sum::<usize>();
        assert_eq!(self.bytes, sum(|entry| entry.bytes));
        let in_file = sum(|entry| match &entry.content {
            Content::Memory(_) => 0,
            Content::File(place) => place.length(),
        });
        assert_eq!(self.file_bytes, in_file);
        let mut movable_bytes = 0;
        let mut passed = self.first;
        for number in self.movable.iter().cloned().flatten() {
            assert!(number >= passed, "in order, and still here");
            passed = number + 1;
            let entry = &self.entries[self.index_of(number).unwrap()];
            assert!(matches!(entry.content, Content::Memory(_)));
            movable_bytes += entry.bytes;
        }
        assert_eq!(self.movable_bytes, movable_bytes);
        assert!(self.bytes() + besides <= self.limits.bytes_max || self.entries.is_empty());
        assert!(self.file_bytes <= self.limits.file_bytes_max);
        assert!(in_file > 0 || self.disk.is_unused());
    }

    fn found(&mut self, number: u64) -> Result<Option<Kept>, TooOld> {
        let found = self.find(crate::clock::instant(), number);
        found.map(|found| found.map(|found| found.kept))
    }

    fn is_in_file(&self, number: u64) -> bool {
        let entry = &self.entries[self.index_of(number).unwrap()];
        matches!(entry.content, Content::File(_))
    }
}

/// The parts of a transaction, each of 50 changes.
fn parts(lsn: u64, count: u32) -> impl Iterator<Item = TransactionPart> {
    let commit = part(lsn, 0, false).commit;
    (0..count).map(move |number| {
        let mut part = part(lsn, 50, number + 1 == count);
        for change in &mut part.changes {
            change.order += number * 50;
        }
        part.commit = Arc::clone(&commit);
        part
    })
}

#[track_caller]
fn assert_same(one: &Kept, other: &Kept) {
    assert_eq!(one.changes, other.changes);
    assert_eq!(one.commit, other.commit);
    assert_eq!(
        (one.size, one.last, one.is_whole),
        (other.size, other.last, other.is_whole)
    );
}

#[test]
fn positions_are_held_from_the_beginning_on() {
    let now = crate::clock::instant();
    let mut history = history(1 << 20);
    assert!(!history.holds(position(99, 7)));
    assert!(history.holds(position(99, u32::MAX)));
    history.push(now, part(100, 2, true), true, 0);
    history.push(now, part(200, 3, true), true, 0);
    assert_eq!(history.number_after(position(99, u32::MAX)), 0);
    assert_eq!(history.number_after(position(100, 0)), 0);
    // The end of a transaction is something that comes after its last change.
    assert_eq!(history.number_after(position(100, 1)), 0);
    assert_eq!(history.number_after(position(150, 0)), 1);
    assert_eq!(history.number_after(position(300, 0)), 2);
    assert_eq!(history.found(2).map(|kept| kept.is_none()), Ok(true));
}

#[test]
fn what_leaves_takes_its_positions_along() {
    let now = crate::clock::instant();
    let mut history = history(3000);
    for lsn in 1..=20 {
        history.push(now, part(lsn * 100, 1, true), true, 0);
        assert!(history.bytes() <= 3000);
    }
    assert!(!history.holds(position(100, 0)));
    assert!(history.holds(position(2000, 0)));
    let floor = history.floor().unwrap();
    assert!(history.holds(floor));
    assert_eq!(history.found(0).map(|_| ()), Err(TooOld));
    let before = history.bytes();
    history.bound(now, 2500);
    assert!(history.bytes() < before, "the log counts as well");
    history.bound(now + Duration::from_secs(61), 0);
    assert_eq!(history.bytes(), 0);
    assert!(history.holds(position(2000, u32::MAX)));
}

#[test]
fn a_time_is_the_place_before_the_first_commit_that_is_as_late() {
    let now = crate::clock::instant();
    let mut history = history(1 << 20);
    assert_eq!(history.before_time(PgTime(150)), Err(TooOld));
    for lsn in [100, 300, 200, 400] {
        let mut part = part(400, 1, true);
        part.commit = Arc::new(Commit {
            time: PgTime(lsn),
            lsn: Lsn::new(1000 + history.end()),
            ..(*part.commit).clone()
        });
        history.push(now, part, true, 0);
    }
    assert_eq!(history.before_time(PgTime(100)), Err(TooOld));
    let before = |lsn| Ok(Some(position(lsn, u32::MAX)));
    assert_eq!(history.before_time(PgTime(101)), before(1000));
    assert_eq!(history.before_time(PgTime(200)), before(1000));
    assert_eq!(history.before_time(PgTime(301)), before(1002));
    assert_eq!(history.before_time(PgTime(401)), Ok(None));
}

#[test]
fn nobody_goes_past_a_transaction_without_content() {
    let now = crate::clock::instant();
    let mut history = history(1 << 20);
    history.push(now, part(100, 1, true), true, 0);
    history.cut(&part(200, 0, true).commit);
    assert!(!history.holds(position(150, 0)));
    assert!(history.holds(position(200, u32::MAX)));
    history.push(now, part(300, 1, true), true, 0);
    assert_eq!(history.number_after(position(250, 0)), 1);
    assert!(history.found(1).is_ok_and(|kept| kept.is_some()));
}

#[test]
fn a_large_transaction_is_read_back_and_drives_nobody_out() {
    const BYTES_MAX: usize = 100_000;
    let now = crate::clock::instant();
    let mut history = begun(limits(BYTES_MAX));
    let mut pushed = vec![history.push(now, part(100, 3, true), true, 0)];
    for part in parts(200, 60) {
        pushed.push(history.push(now, part, false, 0));
        history.check(0);
    }
    pushed.push(history.push(now, part(300, 3, true), true, 0));
    let memory = pushed
        .iter()
        .map(|kept| kept.changes.len() * size_of::<Change>());
    assert!(memory.sum::<usize>() > 3 * BYTES_MAX, "it would not fit");
    assert!(history.bytes() < BYTES_MAX / 2);
    assert!(history.holds(position(99, u32::MAX)));
    assert!(!history.is_in_file(0) && history.is_in_file(1) && !history.is_in_file(61));
    for (number, pushed) in (0..).zip(&pushed) {
        assert_same(&history.found(number).unwrap().unwrap(), pushed);
        history.check(0);
    }
    assert!(history.found(62).unwrap().is_none());
    // A place within it is found by what is kept of it in memory.
    assert_eq!(history.number_after(position(200, 99)), 3);
    assert_eq!(history.commit(3), Some(&*pushed[3].commit));
    // When the rest of it is to leave, it moves first.
    let before = history.file_bytes();
    history.bound(now, BYTES_MAX - history.bytes() / 2);
    assert!(history.file_bytes() > before);
    assert!(history.holds(position(99, u32::MAX)));
    history.bound(now + Duration::from_secs(61), 0);
    history.check(0);
    assert_eq!((history.bytes(), history.file_bytes()), (0, 0));
}

#[test]
fn what_is_asked_for_again_is_read_once() {
    let now = crate::clock::instant();
    let mut history = begun(Limits {
        transaction_bytes_max: 0,
        ..limits(1 << 20)
    });
    for part in parts(200, 8) {
        history.push(now, part, false, 0);
    }
    let before = history.bytes();
    for _again in 0..3 {
        for number in 0..3 {
            assert!(history.found(number).unwrap().is_some());
        }
    }
    assert_eq!(history.reads(), 3);
    assert!(history.bytes() > before, "it counts");
    history.check(0);
    for number in (0..8).chain(0..8) {
        assert!(history.found(number).unwrap().is_some());
        assert!(history.bytes() <= before + (1 << 20) / RECENT_SHARE);
    }
    history.bound(now + Duration::from_secs(20), 0);
    assert_eq!(history.bytes(), before);
    // Somebody still sees it.
    let kept = history.found(4).unwrap().unwrap();
    let part = Arc::new(Part::new(&kept, Vec::new(), Arc::default()));
    history.see(4, &part);
    history.bound(now + Duration::from_secs(40), 0);
    let reads = history.reads();
    assert!(Arc::ptr_eq(
        &history.found(4).unwrap().unwrap().changes,
        &part.changes
    ));
    assert_eq!(history.reads(), reads);
}

#[test]
fn the_oldest_leave_when_the_file_is_full() {
    let now = crate::clock::instant();
    let mut history = begun(Limits {
        transaction_bytes_max: 0,
        file_bytes_max: 10_000,
        ..limits(1 << 20)
    });
    history.push(now, part(100, 3, true), true, 0);
    for part in parts(200, 60) {
        history.push(now, part, false, 0);
        history.check(0);
    }
    assert!(!history.holds(position(100, u32::MAX)));
    assert!(!history.holds(position(200, 10)));
    assert!(history.holds(position(200, u32::MAX - 1)));
    assert!(history.file_bytes() > 5_000);
}

#[test]
fn without_a_file_the_past_is_as_long_as_memory() {
    let now = crate::clock::instant();
    let blocked = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    let mut history = begun(Limits {
        directory: blocked.to_path_buf(),
        ..limits(100_000)
    });
    history.push(now, part(100, 3, true), true, 0);
    for part in parts(200, 60) {
        history.push(now, part, false, 0);
        history.check(0);
    }
    assert_eq!(history.file_bytes(), 0);
    assert!(!history.holds(position(100, u32::MAX)));
    assert!(history.holds(position(200, 60 * 50 - 1)));
    let last = history.end() - 1;
    assert!(history.found(last).unwrap().is_some());
    // The next one finds room again.
    blocked.close().unwrap();
    let later = now + Duration::from_secs(10);
    history.push(later, part(300, 3, true), true, 0);
    for part in parts(400, 60) {
        history.push(later, part, false, 0);
        history.check(0);
    }
    assert!(history.file_bytes() > 0);
    assert!(history.holds(position(300, 0)));
    std::fs::remove_dir(&history.limits.directory).unwrap();
}

#[test]
fn nobody_goes_past_what_cannot_be_read() {
    let now = crate::clock::instant();
    let mut history = begun(Limits {
        transaction_bytes_max: 0,
        ..limits(1 << 20)
    });
    for part in parts(200, 8) {
        history.push(now, part, false, 0);
    }
    let entry = &mut history.entries[4];
    let Content::File(place) = &mut entry.content else {
        panic!("it is in memory");
    };
    place.lose();
    assert!(history.found(3).unwrap().is_some());
    assert_eq!(history.found(4).map(|_| ()), Err(TooOld));
    history.check(0);
    assert_eq!(history.found(3).map(|_| ()), Err(TooOld));
    assert!(!history.holds(position(200, 5 * 50 - 2)));
    assert!(history.holds(position(200, 5 * 50 - 1)));
    assert!(history.found(5).unwrap().is_some());
}

/// What happens to a history.
#[derive(Clone, Debug)]
enum Step {
    /// A part of so many changes, perhaps the last of its transaction.
    Push(u32, bool),
    Bound(usize),
    Wait(u64),
    Find(u64),
    Cut,
    Restart,
}

fn a_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (0..40_u32, any::<bool>()).prop_map(|(changes, last)| Step::Push(changes, last)),
        2 => (0..30_000_usize).prop_map(Step::Bound),
        3 => (0..20_u64).prop_map(Step::Wait),
        10 => (0..40_u64).prop_map(Step::Find),
        1 => Just(Step::Cut),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whatever_happens_it_counts_rightly_and_says_what_it_was_told(
        steps in vec(a_step(), 0..80),
        (bytes_max, transaction, file) in (2_000..40_000_usize, 0..10_000_usize, 0..20_000_usize),
    ) {
        let mut now = crate::clock::instant();
        let mut history = begun(Limits {
            transaction_bytes_max: transaction,
            file_bytes_max: file,
            ..limits(bytes_max)
        });
        let (mut pushed, mut lsn, mut order) = (Vec::new(), 100, 0);
        for step in steps {
            let mut besides = 0;
            match step {
                Step::Push(changes, last) => {
                    let mut part = part(lsn, changes, last);
                    for change in &mut part.changes {
                        change.order += order;
                    }
                    (lsn, order) = if last { (lsn + 10, 0) } else { (lsn, order + changes) };
                    pushed.push(history.push(now, part, last, 0));
                }
                Step::Bound(bytes) => {
                    history.bound(now, bytes);
                    besides = bytes;
                }
                Step::Wait(seconds) => {
                    now += Duration::from_secs(seconds);
                    history.bound(now, 0);
                }
                Step::Find(back) => {
                    let number = history.end().saturating_sub(back);
                    match history.find(now, number) {
                        Err(TooOld) => prop_assert!(number < history.first),
                        Ok(None) => prop_assert_eq!(number, history.end()),
                        Ok(Some(found)) => {
                            let index = usize::try_from(number).unwrap();
                            assert_same(&found.kept, &pushed[index]);
                        }
                    }
                    history.bound(now, 0);
                }
                Step::Cut => {
                    history.cut(&part(lsn, 0, true).commit);
                    (lsn, order) = (lsn + 10, 0);
                }
                Step::Restart => {
                    history.restart();
                    history.begin(Lsn::new(lsn));
                    order = 0;
                }
            }
            history.check(besides);
        }
    }
}
