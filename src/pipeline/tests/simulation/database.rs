//! A database as far as the pipeline can tell: commits in an order, visible in another, policies that follow memberships.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;
use rand::rngs::StdRng;

use crate::change::Lsn;
use crate::pipeline::tests::{MESSAGES, OPEN, UNBOUND};
use crate::policy::{Answer, Asked, Expected, Found, Question};

/// Subjects of tokens are `0`, `1`, …
pub(super) const PEOPLE: usize = 3;
const TEAMS: u64 = 3;
const ROWS_MAX: usize = 12;

/// What happened to one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Deed {
    pub(super) table: u32,
    pub(super) id: u64,
    pub(super) kind: Kind,
    /// Of the row afterwards, or before it was deleted.
    pub(super) team: u64,
    /// Unique; also of a delete.
    pub(super) version: u64,
    /// Who could see this version, when it committed or at any time before it was superseded.
    pub(super) seen: [bool; PEOPLE],
    /// Who could not, at some time in that span.
    pub(super) hidden: [bool; PEOPLE],
    pub(super) superseded: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Insert,
    Update,
    Delete,
}

#[derive(Clone, Debug)]
pub(super) struct Transaction {
    pub(super) xid: u32,
    pub(super) lsn: u64,
    pub(super) deeds: Vec<Deed>,
    /// Person, team, and whether the person is in it afterwards.
    members: Vec<(usize, u64, bool)>,
    /// Row security of [`OPEN`] afterwards, if it changed.
    row_security: Option<bool>,
    pub(super) visible: bool,
    /// It does not fit into the spool.
    pub(super) too_large: bool,
}

impl Transaction {
    pub(super) fn end_lsn(&self) -> u64 {
        self.lsn + 5
    }
}

/// Rights and rows at some point: of the WAL, or of what is visible.
#[derive(Clone, Debug, Default)]
struct State {
    members: BTreeSet<(usize, u64)>,
    row_security: bool,
    /// Transaction and deed that left the row as it is.
    rows: BTreeMap<u64, (usize, usize)>,
}

impl State {
    fn sees(&self, person: usize, table: u32, team: u64) -> bool {
        let open = table == OPEN && !self.row_security;
        table != UNBOUND && (open || self.members.contains(&(person, team)))
    }

    fn grant(&mut self, transaction: &Transaction) {
        for (person, team, enters) in &transaction.members {
            if *enters {
                self.members.insert((*person, *team));
            } else {
                self.members.remove(&(*person, *team));
            }
        }
        if let Some(row_security) = transaction.row_security {
            self.row_security = row_security;
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Database {
    pub(super) transactions: Vec<Transaction>,
    /// As of the last commit.
    newest: State,
    /// As of what is visible.
    present: State,
    next_xid: u32,
    next_lsn: u64,
    next_number: u64,
    /// Rows and memberships whose last writer is not visible yet: nobody else can write them.
    locked_rows: BTreeSet<u64>,
    locked_members: BTreeSet<(usize, u64)>,
    /// Rises with every change of the catalog that is visible.
    pub(super) fingerprint: u32,
}

/// Somebody's state, as a SELECT gives it: which transactions it saw, and versions by row.
#[derive(Clone, Debug, Default)]
pub(super) struct Selected {
    pub(super) seen: BTreeSet<u32>,
    pub(super) rows: BTreeMap<u64, u64>,
}

pub(super) fn body(team: u64, version: u64) -> String {
    format!("{team}/{version}")
}

impl Database {
    pub(super) fn new(dice: &mut StdRng) -> Self {
        let mut newest = State::default();
        for person in 0..PEOPLE {
            for team in 0..TEAMS {
                if dice.random_bool(0.5) {
                    newest.members.insert((person, team));
                }
            }
        }
        Self {
            transactions: Vec::new(),
            present: newest.clone(),
            newest,
            next_xid: 100,
            next_lsn: 1000,
            next_number: 1,
            locked_rows: BTreeSet::new(),
            locked_members: BTreeSet::new(),
            fingerprint: 0,
        }
    }

    pub(super) fn row_security(&self) -> bool {
        self.present.row_security
    }

    /// Where the next record goes.
    pub(super) fn insert_lsn(&self) -> Lsn {
        Lsn::new(self.next_lsn)
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// A random transaction reaches the WAL. It is not visible yet.
    pub(super) fn commit(&mut self, dice: &mut StdRng) {
        let mut transaction = Transaction {
            // Ids are given at the first write, so that they are not in the order of commits.
            xid: self.next_xid + dice.random_range(0..3),
            lsn: self.next_lsn,
            deeds: Vec::new(),
            members: Vec::new(),
            row_security: None,
            visible: false,
            too_large: dice.random_bool(0.005),
        };
        let taken =
            |xid: u32| (self.transactions.iter().rev().take(9)).any(|other| other.xid == xid);
        while taken(transaction.xid) {
            transaction.xid += 1;
        }
        self.next_xid = self.next_xid.max(transaction.xid) + dice.random_range(0..2);
        self.next_lsn += dice.random_range(10..30);
        match dice.random_range(0..40) {
            0..3 => {
                let who = (dice.random_range(0..PEOPLE), dice.random_range(0..TEAMS));
                if self.locked_members.insert(who) {
                    let enters = !self.newest.members.contains(&who);
                    transaction.members.push((who.0, who.1, enters));
                }
            }
            // Waits for all who write the table.
            3 if self.transactions.iter().all(|other| other.visible) => {
                transaction.row_security = Some(!self.newest.row_security);
            }
            _ => {}
        }
        // Nobody writes a table whose definition is changing.
        let open = transaction.row_security.is_none()
            && (self.transactions.iter())
                .all(|other| other.visible || other.row_security.is_none());
        let mut count = dice.random_range(0..4);
        if dice.random_bool(0.03) {
            count = 20;
        }
        for _deed in 0..count {
            let deed = self.deed(dice, open);
            // A net effect has one deed per row.
            if let Some(deed) = deed
                && self.locked_rows.insert(deed.id)
            {
                transaction.deeds.push(deed);
            }
        }
        let index = self.transactions.len();
        self.newest.grant(&transaction);
        for (place, deed) in transaction.deeds.iter_mut().enumerate() {
            for person in 0..PEOPLE {
                deed.seen[person] = self.newest.sees(person, deed.table, deed.team);
                deed.hidden[person] = !deed.seen[person];
            }
            match deed.kind {
                Kind::Delete => self.newest.rows.remove(&deed.id),
                Kind::Insert | Kind::Update => self.newest.rows.insert(deed.id, (index, place)),
            };
        }
        self.transactions.push(transaction);
    }

    fn deed(&mut self, dice: &mut StdRng, open: bool) -> Option<Deed> {
        let version = self.number();
        let deed = |table, id, kind, team| Deed {
            table,
            id,
            kind,
            team,
            version,
            seen: [false; PEOPLE],
            hidden: [false; PEOPLE],
            superseded: false,
        };
        let some = (!self.newest.rows.is_empty() && dice.random_bool(0.6)).then(|| {
            let place = dice.random_range(0..self.newest.rows.len());
            self.newest
                .rows
                .iter()
                .nth(place)
                .map(|(id, at)| (*id, *at))
        });
        let Some(Some((id, (index, place)))) = some else {
            if self.newest.rows.len() >= ROWS_MAX {
                return None;
            }
            let table = match dice.random_range(0..10) {
                0..4 if open => OPEN,
                4..6 => UNBOUND,
                _ => MESSAGES,
            };
            return Some(deed(
                table,
                version,
                Kind::Insert,
                dice.random_range(0..TEAMS),
            ));
        };
        let before = self.transactions.get(index)?.deeds.get(place)?;
        let (table, team) = (before.table, before.team);
        if table == OPEN && !open {
            return None;
        }
        Some(match dice.random_range(0..10) {
            0..3 => deed(table, id, Kind::Delete, team),
            3 => deed(table, id, Kind::Update, dice.random_range(0..TEAMS)),
            _ => deed(table, id, Kind::Update, team),
        })
    }

    /// Transactions that are not visible yet, in the order of the WAL.
    pub(super) fn invisible(&self) -> Vec<usize> {
        (0..self.transactions.len())
            .filter(|index| !self.transactions[*index].visible)
            .collect()
    }

    /// A transaction becomes visible.
    pub(super) fn show(&mut self, index: usize) {
        self.transactions[index].visible = true;
        let transaction = self.transactions[index].clone();
        self.present.grant(&transaction);
        if transaction.row_security.is_some() {
            self.fingerprint += 1;
        }
        for (person, team, _) in &transaction.members {
            self.locked_members.remove(&(*person, *team));
        }
        for (place, deed) in transaction.deeds.iter().enumerate() {
            self.locked_rows.remove(&deed.id);
            if let Some((index, place)) = self.present.rows.remove(&deed.id) {
                self.transactions[index].deeds[place].superseded = true;
            }
            if deed.kind != Kind::Delete {
                self.present.rows.insert(deed.id, (index, place));
            }
        }
        for (index, place) in self.present.rows.values() {
            let deed = &mut self.transactions[*index].deeds[*place];
            for person in 0..PEOPLE {
                let sees = self.present.sees(person, deed.table, deed.team);
                deed.seen[person] |= sees;
                deed.hidden[person] |= !sees;
            }
        }
    }

    /// `pg_current_snapshot()`.
    pub(super) fn snapshot(&self) -> String {
        let running: Vec<u32> = {
            let mut xids: Vec<u32> = (self.transactions.iter())
                .filter(|transaction| !transaction.visible)
                .map(|transaction| transaction.xid)
                .collect();
            xids.sort_unstable();
            xids
        };
        let highest = self.transactions.iter().map(|transaction| transaction.xid);
        let xmax = highest.max().unwrap_or(99) + 1;
        let xmin = running.first().copied().unwrap_or(xmax);
        let running: Vec<String> = running.iter().map(u32::to_string).collect();
        format!("{xmin}:{xmax}:{}", running.join(","))
    }

    /// What somebody sees now.
    pub(super) fn select(&self, person: usize) -> Selected {
        let rows = self.present.rows.iter().filter_map(|(id, (index, place))| {
            let deed = &self.transactions[*index].deeds[*place];
            let sees = self.present.sees(person, deed.table, deed.team);
            sees.then_some((*id, deed.version))
        });
        Selected {
            seen: (self.transactions.iter())
                .filter(|transaction| transaction.visible)
                .map(|transaction| transaction.xid)
                .collect(),
            rows: rows.collect(),
        }
    }

    /// Whether the row is there now.
    pub(super) fn exists(&self, id: u64) -> bool {
        self.present.rows.contains_key(&id)
    }

    /// What Postgres says to a question now.
    pub(super) fn answer(&self, question: &Question) -> Asked {
        let (_, subject) = (question.identity.claims())
            .split_once("\"sub\":\"")
            .unwrap_or_default();
        let person: Option<usize> = subject.get(..1).and_then(|digit| digit.parse().ok());
        let answers = question.rows.iter().map(|row| {
            let id: u64 = row.key.as_ref().unwrap()[0].parse().unwrap();
            let found = self.present.rows.get(&id).map(|(index, place)| {
                let deed = &self.transactions[*index].deeds[*place];
                let sees = person
                    .is_some_and(|person| self.present.sees(person, deed.table, deed.team))
                    || (deed.table == OPEN && !self.present.row_security);
                let content = body(deed.team, deed.version);
                let expected = row.content.get(1);
                let same = expected
                    .is_none_or(|expected| *expected == Expected::Text(content.as_bytes().into()));
                match (sees, same) {
                    (true, true) => Found::Same,
                    (true, false) => Found::Different,
                    (false, true) if question.confirm_hidden => Found::Hidden,
                    (false, _) => Found::Missing,
                }
            });
            Answer {
                found: found.unwrap_or(Found::Missing),
                as_supposed: true,
                predicates: row.predicates.iter().map(|_| true).collect(),
            }
        });
        Asked {
            result: Ok(answers.collect()),
            read_before: self.insert_lsn(),
            took: std::time::Duration::from_millis(1),
        }
    }
}
