//! What was committed, in commit order: read from a slot of our own, on a table that every transaction writes to.

use std::collections::HashMap;

use serde_json::Value;
use walcast::testing::Session;

use super::client::Millis;

/// The slot, and the publication of the table.
pub(crate) const NAME: &str = "journal";

/// What a transaction did to a row, or to somebody's rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// A version of a row.
    Put {
        id: i64,
        team: i64,
        version: i64,
        inserted: bool,
        /// The version that wrote the body, if this transaction did.
        body: Option<i64>,
    },
    /// The end of a row.
    Drop { id: i64 },
    /// A person enters a team, or leaves it.
    Member {
        team: i64,
        person: usize,
        enters: bool,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    /// Start of the commit record.
    pub(crate) lsn: u64,
    pub(crate) xid: u64,
    /// Microseconds, by the database's clock.
    pub(crate) time: i64,
    pub(crate) deeds: Vec<Deed>,
}

/// From 1970 to 2000, where the database's time begins, in seconds.
const EPOCH_SECONDS: i64 = 946_684_800;

impl Transaction {
    pub(crate) fn unix_millis(&self) -> Millis {
        u64::try_from(self.time / 1000 + EPOCH_SECONDS * 1000).unwrap()
    }
}

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Anon,
    Person(usize),
    Service,
}

/// Everybody's team.
pub(crate) const PUBLIC: i64 = 0;

/// All that was committed, with who could see what when.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    pub(crate) transactions: Vec<Transaction>,
    by_lsn: HashMap<u64, usize>,
    /// By row: the transactions that touched it, and the team afterwards; `None` if the row was gone.
    rows: HashMap<i64, Vec<(usize, Option<i64>)>>,
    /// By row and version: the version that wrote the body.
    bodies: HashMap<(i64, i64), i64>,
    /// The same of the rows' last versions.
    last_bodies: HashMap<i64, i64>,
    /// By team and person: the transactions that changed it, and whether the person was in it afterwards.
    members: HashMap<(i64, usize), Vec<(usize, bool)>>,
}

impl Truth {
    pub(crate) fn push(&mut self, transaction: Transaction) {
        let index = self.transactions.len();
        for deed in &transaction.deeds {
            match *deed {
                Deed::Put {
                    id,
                    team,
                    version,
                    body,
                    ..
                } => {
                    self.rows.entry(id).or_default().push((index, Some(team)));
                    if let Some(body) = body {
                        self.last_bodies.insert(id, body);
                    }
                    if let Some(body) = self.last_bodies.get(&id) {
                        self.bodies.insert((id, version), *body);
                    }
                }
                Deed::Drop { id } => self.rows.entry(id).or_default().push((index, None)),
                Deed::Member {
                    team,
                    person,
                    enters,
                } => {
                    let changes = self.members.entry((team, person)).or_default();
                    changes.push((index, enters));
                }
            }
        }
        self.by_lsn.insert(transaction.lsn, index);
        self.transactions.push(transaction);
    }

    pub(crate) fn at(&self, lsn: u64) -> Option<usize> {
        self.by_lsn.get(&lsn).copied()
    }

    /// The version that wrote the body that a version of a row has.
    pub(crate) fn body_of(&self, id: i64, version: i64) -> Option<i64> {
        self.bodies.get(&(id, version)).copied()
    }

    /// Whether somebody can see a team's rows right after transaction `index`.
    pub(crate) fn sees(&self, who: Who, team: i64, index: usize) -> bool {
        match who {
            Who::Service => true,
            _ if team == PUBLIC => true,
            Who::Anon => false,
            Who::Person(person) => self.members.get(&(team, person)).is_some_and(|changes| {
                let known = changes.partition_point(|(at, _)| *at <= index);
                known > 0 && changes[known - 1].1
            }),
        }
    }

    /// Transactions from `index` to before `end` that change whether somebody can see a team's rows.
    fn turns(&self, who: Who, team: i64, index: usize, end: usize) -> bool {
        let Who::Person(person) = who else {
            return false;
        };
        self.members.get(&(team, person)).is_some_and(|changes| {
            let next = changes.partition_point(|(at, _)| *at <= index);
            changes.get(next).is_some_and(|(at, _)| *at < end)
        })
    }

    /// The transaction after `index` that touches the row, if any.
    pub(crate) fn successor(&self, id: i64, index: usize) -> Option<usize> {
        let touches = self.rows.get(&id)?;
        let next = touches.partition_point(|(at, _)| *at <= index);
        touches.get(next).map(|(at, _)| *at)
    }

    /// Whether the row is there in the end.
    pub(crate) fn exists(&self, id: i64) -> bool {
        self.rows
            .get(&id)
            .and_then(|touches| touches.last())
            .is_some_and(|(_, team)| team.is_some())
    }

    /// Whether somebody could see the version of a row that transaction `index` left, right then or at any time before it
    /// was superseded: whoever asks Postgres learns of the present.
    pub(crate) fn ever_visible(&self, who: Who, id: i64, team: i64, index: usize) -> bool {
        let end = self.successor(id, index).unwrap_or(self.transactions.len());
        self.sees(who, team, index) || self.turns(who, team, index, end)
    }

    /// Whether somebody could see it right then and nothing changed about that until `judged`: then no delay excuses that it
    /// does not arrive.
    pub(crate) fn surely_visible(&self, who: Who, team: i64, index: usize, judged: Millis) -> bool {
        self.sees(who, team, index) && !self.turns(who, team, index, self.later(judged))
    }

    /// Whether the version had been superseded by then: it may have been merged into its successor.
    pub(crate) fn superseded_by(&self, id: i64, index: usize, judged: Millis) -> bool {
        self.successor(id, index)
            .is_some_and(|next| next < self.later(judged))
    }

    /// The first transaction that committed after this time.
    fn later(&self, time: Millis) -> usize {
        self.transactions
            .partition_point(|other| other.unix_millis() <= time)
    }
}

/// Takes what the slot holds into the truth. What was taken in before may come again: a crash sets the slot back.
pub(crate) async fn read(
    session: &Session,
    truth: &mut Truth,
) -> Result<(), tokio_postgres::Error> {
    let peek = "select lsn::text, data from pg_catalog.pg_logical_slot_peek_binary_changes(
                  $1, null, 2000, 'proto_version', '1', 'publication_names', 'journal')";
    loop {
        let rows = session.query(peek, &[&NAME]).await?;
        let Some(last) = rows.last() else {
            return Ok(());
        };
        let mut open: Option<Transaction> = None;
        for row in &rows {
            let message: &[u8] = row.get(1);
            match message[0] {
                b'B' => {
                    open = Some(Transaction {
                        lsn: u64::from_be_bytes(message[1..9].try_into().unwrap()),
                        time: i64::from_be_bytes(message[9..17].try_into().unwrap()),
                        xid: u32::from_be_bytes(message[17..21].try_into().unwrap()).into(),
                        deeds: Vec::new(),
                    });
                }
                b'I' => open
                    .as_mut()
                    .unwrap()
                    .deeds
                    .extend(deeds(last_column(message))),
                b'C' => {
                    let transaction = open.take().unwrap();
                    let newest = truth.transactions.last();
                    if newest.is_none_or(|newest| newest.lsn < transaction.lsn) {
                        truth.push(transaction);
                    }
                }
                _ => {}
            }
        }
        let lsn: &str = last.get(0);
        let advance = format!("select pg_catalog.pg_replication_slot_advance('{NAME}', '{lsn}')");
        session.batch_execute(&advance).await?;
    }
}

/// The last value of an Insert message.
fn last_column(message: &[u8]) -> &str {
    let columns = u16::from_be_bytes(message[6..8].try_into().unwrap());
    let mut rest = &message[8..];
    let mut text = "";
    for _column in 0..columns {
        assert_eq!(rest[0], b't');
        let length = u32::from_be_bytes(rest[1..5].try_into().unwrap());
        let (value, behind) = rest[5..].split_at(usize::try_from(length).unwrap());
        text = std::str::from_utf8(value).unwrap();
        rest = behind;
    }
    text
}

/// An entry of the journal: `[["put", id, team, version, inserted], ["drop", id], ["member", team, person, enters],
/// ["bulk", first id, count, team, first version]]`.
fn deeds(entry: &str) -> Vec<Deed> {
    let entry: Value = serde_json::from_str(entry).unwrap();
    let mut deeds = Vec::new();
    for deed in entry.as_array().unwrap() {
        let number = |place: usize| deed[place].as_i64().unwrap();
        match deed[0].as_str().unwrap() {
            "put" => deeds.push(Deed::Put {
                id: number(1),
                team: number(2),
                version: number(3),
                inserted: deed[4].as_bool().unwrap(),
                body: deed[5].as_i64(),
            }),
            "drop" => deeds.push(Deed::Drop { id: number(1) }),
            "member" => deeds.push(Deed::Member {
                team: number(1),
                person: usize::try_from(number(2)).unwrap(),
                enters: deed[3].as_bool().unwrap(),
            }),
            "bulk" => deeds.extend((0..number(2)).map(|n| Deed::Put {
                id: number(1) + n,
                team: number(3),
                version: number(4) + n,
                inserted: true,
                body: Some(number(4) + n),
            })),
            other => panic!("{other}"),
        }
    }
    deeds
}
