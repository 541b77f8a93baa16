//! Loading while transactions begin, commit, become visible and are streamed in every order that Postgres allows.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::shadow::State;

/// A database with one table, and a stream that runs ahead of or behind what others see.
struct World {
    relation: Arc<Relation>,
    facts: Facts,
    shadow: Shadow,
    /// After every commit record that was written.
    state: BTreeMap<i64, Content>,
    running: Vec<Running>,
    xid: u32,
    lsn: u64,
    /// Every transaction, in the order of commit records.
    history: Vec<(Arc<Commit>, Vec<ChangeKind>)>,
    stream: VecDeque<TransactionPart>,
    /// The last commit that was consumed whole.
    consumed: Option<Lsn>,
    loads: Vec<(LoadRequest, Option<LoadResult>)>,
    /// Checks that found a trusted shadow.
    checked: usize,
}

/// A transaction that others do not see, and the rows that they cannot write meanwhile.
struct Running {
    xid: u32,
    ids: BTreeSet<i64>,
    changes: Vec<ChangeKind>,
    is_committed: bool,
}

const IDS: i64 = 8;

impl World {
    fn new() -> Self {
        let spec = spec(&[0, 1, 2]);
        let facts = facts(&spec, b'd', &[1]);
        let mut shadow = Shadow::new(LIMITS);
        shadow.want(vec![spec]);
        Self {
            relation: relation(ReplicaIdentity::Default),
            facts,
            shadow,
            state: BTreeMap::new(),
            running: Vec::new(),
            xid: 10,
            lsn: 100,
            history: Vec::new(),
            stream: VecDeque::new(),
            consumed: None,
            loads: Vec::new(),
            checked: 0,
        }
    }

    fn apply(state: &mut BTreeMap<i64, Content>, changes: &[ChangeKind]) {
        let parse = |tuple: &Tuple| {
            let text = |at| {
                let text = tuple.get(at).unwrap().text()?;
                Some(std::str::from_utf8(text).unwrap().to_owned())
            };
            let id: i64 = text(0).unwrap().parse().unwrap();
            (id, (text(1).map(|room| room.parse().unwrap()), text(2)))
        };
        for change in changes {
            match change {
                ChangeKind::Insert { new } => {
                    let (id, content) = parse(new);
                    assert!(state.insert(id, content).is_none());
                }
                ChangeKind::Update { old, new } => {
                    let (id, content) = parse(new);
                    let before = old.as_ref().map_or(id, |old| parse(&old.tuple).0);
                    assert!(state.remove(&before).is_some());
                    state.insert(id, content);
                }
                ChangeKind::Delete { old } => {
                    assert!(state.remove(&parse(&old.tuple).0).is_some());
                }
                ChangeKind::Truncate => state.clear(),
            }
        }
    }

    /// A transaction that writes some of the rows that nobody else writes.
    fn begin(&mut self, seed: u16) {
        let is_free = |id: &i64| !self.running.iter().any(|other| other.ids.contains(id));
        let mut ids: BTreeSet<i64> = (0..IDS)
            .filter(|id| seed & (1 << id) != 0)
            .filter(is_free)
            .collect();
        let content = (Some(i64::from(seed % 5)), Some(format!("{}", self.xid)));
        let mut changes = Vec::new();
        if seed.is_multiple_of(16) && self.running.is_empty() {
            ids = (0..IDS).collect();
            changes.push(ChangeKind::Truncate);
        } else {
            let mut free: Vec<i64> = Vec::new();
            for id in ids.iter().rev() {
                let new = tuple(*id, &content);
                if !self.state.contains_key(id) {
                    free.push(*id);
                    continue;
                }
                match (seed
                    .wrapping_mul(7)
                    .wrapping_add(u16::try_from(*id).unwrap()))
                    % 3
                {
                    0 => changes.push(ChangeKind::Delete { old: key(*id) }),
                    1 if let Some(to) = free.pop() => changes.push(ChangeKind::Update {
                        old: Some(key(*id)),
                        new: tuple(to, &content),
                    }),
                    _ => changes.push(ChangeKind::Update { old: None, new }),
                }
            }
            for id in free {
                changes.push(ChangeKind::Insert {
                    new: tuple(id, &content),
                });
            }
        }
        if !changes.is_empty() {
            self.running.push(Running {
                xid: self.xid,
                ids,
                changes,
                is_committed: false,
            });
        }
        self.xid += 1;
    }

    /// Writes the commit record.
    fn commit(&mut self, seed: usize) {
        let open = self.running.iter_mut().filter(|one| !one.is_committed);
        let mut open: Vec<_> = open.collect();
        let count = open.len();
        let Some(one) = open.get_mut(seed % count.max(1)) else {
            return;
        };
        one.is_committed = true;
        self.lsn += 10;
        let commit = commit(self.lsn, one.xid);
        Self::apply(&mut self.state, &one.changes);
        let kinds = one.changes.clone();
        let half = if seed.is_multiple_of(2) {
            kinds.len() / 2
        } else {
            0
        };
        let (first, second) = kinds.split_at(half);
        if half > 0 {
            let first = part(&commit, &self.relation, 0, first.to_vec(), false);
            self.stream.push_back(first);
        }
        let order = u32::try_from(half).unwrap();
        let second = part(&commit, &self.relation, order, second.to_vec(), true);
        self.stream.push_back(second);
        self.history.push((commit, kinds));
    }

    /// Others see a committed transaction, or an open one is rolled back.
    fn end(&mut self, seed: usize, rolls_back: bool) {
        let ends = |one: &Running| one.is_committed != rolls_back;
        let count = self.running.iter().filter(|one| ends(one)).count();
        let at = (self.running.iter().enumerate())
            .filter(|(_, one)| ends(one))
            .map(|(at, _)| at)
            .nth(seed % count.max(1));
        if let Some(at) = at {
            self.running.remove(at);
        }
    }

    fn snapshot(&self) -> Snapshot {
        let mut running: Vec<u32> = self.running.iter().map(|one| one.xid).collect();
        running.sort_unstable();
        let xmin = running.first().copied().unwrap_or(self.xid);
        let list: Vec<String> = running.iter().map(ToString::to_string).collect();
        format!("{xmin}:{}:{}", self.xid, list.join(","))
            .parse()
            .unwrap()
    }

    /// Reads the table for a load that waits.
    fn read(&mut self, seed: usize) {
        let snapshot = self.snapshot();
        let mut visible = BTreeMap::new();
        for (commit, changes) in &self.history {
            if snapshot.sees(commit.xid) {
                Self::apply(&mut visible, changes);
            }
        }
        let count = self.loads.len();
        if let Some((request, result @ None)) = self.loads.get_mut(seed % count.max(1)) {
            let rows_of = visible
                .iter()
                .map(|(id, content)| texts(*id, content).to_vec());
            let lsn = self.lsn + 1;
            *result = Some(rows(request, &self.facts, &snapshot, lsn, rows_of));
        }
    }

    fn deliver(&mut self, seed: usize) {
        if self.loads.is_empty() {
            return;
        }
        match self.loads.remove(seed % self.loads.len()) {
            (_, Some(result)) => self.shadow.loaded(result),
            unread => self.loads.push(unread),
        }
    }

    fn consume(&mut self) {
        let Some(part) = self.stream.pop_front() else {
            return;
        };
        self.shadow.apply(&part);
        if part.last {
            self.consumed = Some(part.commit.lsn);
        }
    }

    fn ask_for_loads(&mut self) {
        let requests = self.shadow.loads();
        self.loads
            .extend(requests.into_iter().map(|request| (request, None)));
    }

    fn step(&mut self, (kind, seed): (u8, u16)) {
        let any = usize::from(seed);
        match kind {
            0..=3 => self.begin(seed),
            4..=7 => self.commit(any),
            8..=10 => self.end(any, false),
            11 => self.end(any, true),
            12..=16 => self.consume(),
            17..=19 => self.ask_for_loads(),
            20..=22 => self.read(any),
            23..=25 => self.deliver(any),
            26 => {
                let snapshot = self.snapshot();
                self.shadow.seen(&snapshot);
            }
            _ if seed.is_multiple_of(8) => self.shadow.invalidate(&[TABLE], "a test"),
            _ => {}
        }
        self.check();
    }

    /// A shadow that is trusted is the table as of the commit.
    fn check(&mut self) {
        let State::Trusted { .. } = self.shadow.status()[0].state else {
            if let State::Invalid { reason } = &self.shadow.status()[0].state {
                assert!(!reason.contains("there"), "{reason}");
            }
            return;
        };
        for commit in self.history.iter().map(|(commit, _)| commit.lsn) {
            if !self.shadow.is_trusted(&[TABLE], commit) {
                continue;
            }
            assert!(self.consumed.is_some_and(|consumed| commit <= consumed));
            let mut expected = BTreeMap::new();
            for (_, changes) in (self.history.iter()).filter(|(other, _)| other.lsn <= commit) {
                Self::apply(&mut expected, changes);
            }
            let spec = spec(&[0, 1, 2]);
            let expected = expected
                .iter()
                .map(|(id, content)| shown(&spec, *id, content));
            assert_eq!(
                sorted(scan(&self.shadow, &[])),
                sorted(expected),
                "as of {commit}"
            );
            self.checked += 1;
        }
    }

    /// Everything ends and is consumed; a load then succeeds, and the next transaction is followed.
    fn finish(&mut self) {
        while self.running.iter().any(|one| !one.is_committed) {
            self.commit(1);
        }
        self.running.clear();
        while !self.stream.is_empty() {
            self.consume();
            self.check();
        }
        while !self.loads.is_empty() {
            self.read(0);
            self.deliver(0);
            self.check();
        }
        self.ask_for_loads();
        self.read(0);
        self.deliver(0);
        self.begin(0b1011);
        self.commit(1);
        self.consume();
        assert!(
            self.shadow.is_trusted(&[TABLE], Lsn::new(self.lsn)),
            "{:?}",
            self.shadow.status()
        );
        self.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_trusted_shadow_is_the_table_as_of_the_commit(
        steps in proptest::collection::vec((0_u8..28, any::<u16>()), 0..250),
    ) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.finish();
        prop_assert!(world.checked > 0);
    }
}

/// Insert of one row by transaction `xid`, committed at `lsn`.
fn insert(lsn: u64, xid: u32) -> TransactionPart {
    let new = tuple(i64::from(xid), &(Some(1), None));
    let relation = relation(ReplicaIdentity::Default);
    part(
        &commit(lsn, xid),
        &relation,
        0,
        vec![ChangeKind::Insert { new }],
        true,
    )
}

fn begun(limits: Limits) -> (Shadow, Facts) {
    let spec = spec(&[0, 1, 2]);
    let facts = facts(&spec, b'd', &[1]);
    let mut shadow = Shadow::new(limits);
    shadow.want(vec![spec]);
    (shadow, facts)
}

#[test]
fn what_was_consumed_before_must_be_visible() {
    let (mut shadow, facts) = begun(LIMITS);
    shadow.apply(&insert(20, 50));
    let request = shadow.loads().pop().unwrap();
    let early = "50:51:50".parse().unwrap();
    shadow.loaded(rows(&request, &facts, &early, 30, []));
    assert!(matches!(shadow.status()[0].state, State::Invalid { .. }));
    let request = shadow.loads().pop().unwrap();
    assert_eq!(request.attempt, 1);
    let late = "51:51:".parse().unwrap();
    shadow.loaded(rows(&request, &facts, &late, 30, []));
    assert_eq!(
        shadow.status()[0].state,
        State::Trusted { from: Lsn::new(30) }
    );
}

#[test]
fn a_later_snapshot_says_nothing_about_a_load_with_an_earlier_one() {
    let (mut shadow, facts) = begun(LIMITS);
    shadow.apply(&insert(20, 50));
    let request = shadow.loads().pop().unwrap();
    let early = "50:51:50".parse().unwrap();
    shadow.seen(&"51:51:".parse().unwrap());
    shadow.loaded(rows(&request, &facts, &early, 30, []));
    assert!(matches!(shadow.status()[0].state, State::Invalid { .. }));
}

#[test]
fn what_was_forgotten_must_be_older_than_all_that_runs() {
    let (mut shadow, facts) = begun(LIMITS);
    for at in 0..70_000 {
        shadow.apply(&insert(u64::from(at) + 100, at + 100));
    }
    for (snapshot, trusted) in [
        ("300:90000:300,50000", false),
        ("50000:90000:50000", false),
        ("90000:90000:", true),
    ] {
        let request = shadow.loads().pop().unwrap();
        shadow.loaded(rows(&request, &facts, &snapshot.parse().unwrap(), 1, []));
        let is_trusted = matches!(shadow.status()[0].state, State::Trusted { .. });
        assert_eq!(is_trusted, trusted, "{snapshot}");
    }
}

#[test]
fn too_many_changes_while_loading_begin_it_again_and_at_last_end_it() {
    let (mut shadow, facts) = begun(Limits {
        retained_bytes_max: 5_000,
        ..LIMITS
    });
    let mut at = 100;
    for _ in 0..3 {
        let request = shadow.loads().pop().unwrap();
        while shadow.status()[0].state == State::Loading {
            at += 1;
            shadow.apply(&insert(u64::from(at), at));
            assert!(at < 300);
        }
        assert_eq!(shadow.status()[0].bytes, 0);
        shadow.loaded(rows(&request, &facts, &"900:900:".parse().unwrap(), 1, []));
    }
    assert_eq!(shadow.status()[0].state, State::TooLarge);
}

#[test]
fn a_lost_transaction_and_a_new_beginning_invalidate() {
    let (mut shadow, facts) = begun(LIMITS);
    let load = |shadow: &mut Shadow| {
        let request = shadow.loads().pop().unwrap();
        shadow.loaded(rows(&request, &facts, &"900:900:".parse().unwrap(), 1, []));
        assert!(matches!(shadow.status()[0].state, State::Trusted { .. }));
    };
    load(&mut shadow);
    shadow.skipped(&commit(20, 20), &[TABLE + 1]);
    assert!(shadow.is_trusted(&[TABLE], Lsn::new(20)));
    shadow.skipped(&commit(21, 21), &[TABLE]);
    assert!(!shadow.is_trusted(&[TABLE], Lsn::new(21)));
    load(&mut shadow);
    shadow.skipped(&commit(22, 22), &[]);
    assert!(!shadow.is_trusted(&[TABLE], Lsn::new(22)));
    load(&mut shadow);
    shadow.apply(&insert(23, 901));
    assert!(shadow.is_trusted(&[TABLE], Lsn::new(23)));
    assert!(shadow.is_trusted(&[TABLE, TABLE], Lsn::new(23)));
    assert!(!shadow.is_trusted(&[TABLE, TABLE + 1], Lsn::new(23)));
    assert!(
        !shadow.is_trusted(&[TABLE], Lsn::new(22)),
        "the past is gone"
    );
    shadow.restart();
    assert!(!shadow.is_trusted(&[TABLE], Lsn::new(23)));
}

#[test]
fn half_a_transaction_that_never_ends_is_not_kept() {
    let (mut shadow, facts) = begun(LIMITS);
    let request = shadow.loads().pop().unwrap();
    shadow.loaded(rows(&request, &facts, &"20:20:".parse().unwrap(), 1, []));
    let mut half = insert(30, 30);
    half.last = false;
    shadow.apply(&half);
    shadow.apply(&insert(31, 31));
    assert!(!shadow.is_trusted(&[TABLE], Lsn::new(31)));
}

#[test]
fn what_a_load_contains_already_may_have_been_altered() {
    let spec = spec(&[0, 1]);
    let facts = facts(&spec, b'd', &[1]);
    let mut shadow = Shadow::new(LIMITS);
    shadow.want(vec![spec]);
    let request = shadow.loads().pop().unwrap();
    // Two commits, of which the snapshot sees the later one only; its part comes after the load.
    let snapshot = "20:22:20".parse().unwrap();
    shadow.apply(&insertion(100, 20, 1));
    assert!(
        shadow.may_be_altered(TABLE, Lsn::new(100)),
        "while it is loaded"
    );
    shadow.loaded(rows(&request, &facts, &snapshot, 120, []));
    assert!(shadow.may_be_altered(TABLE, Lsn::new(100)));
    shadow.apply(&insertion(110, 21, 2));
    assert!(
        shadow.may_be_altered(TABLE, Lsn::new(110)),
        "the load has it"
    );
    // From then on it is known.
    let relation = relation(ReplicaIdentity::Default);
    let new = tuple(1, &(Some(1), Some("not read".to_owned())));
    let update = ChangeKind::Update { old: None, new };
    shadow.apply(&part(&commit(130, 22), &relation, 0, vec![update], true));
    assert!(!shadow.may_be_altered(TABLE, Lsn::new(130)));
    shadow.apply(&insertion(140, 23, 3));
    assert!(shadow.may_be_altered(TABLE, Lsn::new(140)));
}
