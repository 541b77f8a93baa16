//! What was written, by whom it may be seen, and whether somebody got exactly that.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use walcast::testing::Session;

use super::guest::{Guest, ReturnBy, Stay};
use super::{conversation, person};

type Audience = Arc<BTreeSet<usize>>;

/// What was done to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    Insert,
    Update,
    Delete,
    /// People were added to the conversation or removed from it.
    Members,
}

/// One committed change.
#[derive(Debug)]
struct Change {
    /// Just before its transaction was sent.
    started: Instant,
    conversation: usize,
    deed: Deed,
    row: String,
    /// What it is known by on the wire.
    mark: String,
    /// Who may see it.
    audience: Audience,
}

/// What one writer has committed, in order.
#[derive(Debug)]
pub(super) struct Book {
    changes: Vec<Change>,
    /// Contents of the messages that are left, with their conversations.
    rows: BTreeMap<String, (usize, String)>,
    audiences: BTreeMap<usize, Audience>,
    witnessed: usize,
}

/// Writes into the conversations of its own, one transaction after the other, and keeps book.
#[derive(Debug)]
pub(super) struct Writer {
    number: usize,
    people: usize,
    dice: StdRng,
    sequence: u64,
    book: Book,
}

/// A transaction before its commit.
#[derive(Debug, Default)]
struct Draft {
    sql: String,
    changes: Vec<(usize, Deed, String, String)>,
    touched: BTreeSet<String>,
}

impl Writer {
    pub(super) fn new(
        number: usize,
        writers: usize,
        people: usize,
        audiences: &[BTreeSet<usize>],
        seed: u64,
    ) -> Self {
        let own = audiences.iter().enumerate();
        let own = own.filter(|(conversation, _)| conversation % writers == number);
        Self {
            number,
            people,
            dice: StdRng::seed_from_u64(seed),
            sequence: 0,
            book: Book {
                changes: Vec::new(),
                rows: BTreeMap::new(),
                audiences: own
                    .map(|(number, audience)| (number, Arc::new(audience.clone())))
                    .collect(),
                witnessed: 0,
            },
        }
    }

    /// `witness` is another session, to look at the table as somebody.
    pub(super) async fn write(
        mut self,
        session: Session,
        witness: Session,
        until: Instant,
        pause: Duration,
    ) -> Book {
        let mut tick = tokio::time::interval(pause);
        while Instant::now() < until {
            tick.tick().await;
            if self.dice.random_bool(0.03) {
                self.change_nothing(&session).await;
            }
            let draft = self.draft();
            let started = Instant::now();
            session.run(&format!("begin;{}commit", draft.sql)).await;
            for (conversation, deed, row, mark) in draft.changes {
                let audience = Arc::clone(&self.book.audiences[&conversation]);
                self.book.changes.push(Change {
                    started,
                    conversation,
                    deed,
                    row,
                    mark,
                    audience,
                });
            }
            if self.dice.random_bool(0.1) {
                self.look(&witness).await;
            }
        }
        self.book
    }

    /// What is rolled back is nobody's.
    async fn change_nothing(&mut self, session: &Session) {
        let conversation = self.any_conversation();
        let id = self::conversation(conversation);
        session
            .run(&format!(
                "begin; insert into messages (conversation_id, sender_id, sender_type, content)
                 values ('{id}', '{id}', 'user', 'rolled back');
                 update conversations set title = 'rolled back' where id = '{id}'; rollback"
            ))
            .await;
    }

    fn draft(&mut self) -> Draft {
        let mut draft = Draft::default();
        let changes = match self.dice.random_range(0..20) {
            0 => self.dice.random_range(2..30),
            1 | 2 => 2,
            _ => 1,
        };
        for _ in 0..changes {
            self.change(&mut draft);
        }
        draft
    }

    fn change(&mut self, draft: &mut Draft) {
        let conversation = self.any_conversation();
        let id = self::conversation(conversation);
        self.sequence += 1;
        let mark = format!("{}:{}", self.number, self.sequence);
        let known = self.message_of(conversation, &draft.touched);
        let (deed, row, mark) = match (self.dice.random_range(0..100), known) {
            (60..85, Some(row)) => {
                draft.sql.push_str(&format!(
                    "update messages set content = '{mark}' where id = '{row}';"
                ));
                self.book
                    .rows
                    .insert(row.clone(), (conversation, mark.clone()));
                (Deed::Update, row, mark)
            }
            // Not beside a change of who takes part: the one counts before the transaction, the other after it.
            (85..93, Some(row)) if !draft.touched.contains(&id) => {
                draft
                    .sql
                    .push_str(&format!("delete from messages where id = '{row}';"));
                self.book.rows.remove(&row);
                draft.touched.insert(id);
                (Deed::Delete, row.clone(), format!("gone {row}"))
            }
            (93..100, _) if !draft.touched.contains(&id) && draft.changes.is_empty() => {
                let audience = self.other_audience(conversation);
                let people: Vec<String> = audience.iter().map(|number| person(*number)).collect();
                draft.sql.push_str(&format!(
                    "update conversations set participant_ids = '{{{}}}', title = '{mark}' where id = '{id}';",
                    people.join(",")
                ));
                self.book.audiences.insert(conversation, Arc::new(audience));
                draft.touched.insert(id.clone());
                (Deed::Members, id, mark)
            }
            _ => {
                let row = format!(
                    "d0000000-0000-4000-8{:03}-{:012}",
                    self.number, self.sequence
                );
                let sender = person(0);
                draft.sql.push_str(&format!(
                    "insert into messages (id, conversation_id, sender_id, sender_type, content)
                     values ('{row}', '{id}', '{sender}', 'user', '{mark}');"
                ));
                self.book
                    .rows
                    .insert(row.clone(), (conversation, mark.clone()));
                (Deed::Insert, row, mark)
            }
        };
        draft.touched.insert(row.clone());
        draft.changes.push((conversation, deed, row, mark));
    }

    fn any_conversation(&mut self) -> usize {
        let place = self.dice.random_range(0..self.book.audiences.len());
        *self.book.audiences.keys().nth(place).unwrap()
    }

    /// One of its messages that the transaction has not touched: versions of one row within a transaction are one change.
    fn message_of(&mut self, conversation: usize, touched: &BTreeSet<String>) -> Option<String> {
        let newest = self.book.changes.iter().rev().take(2000);
        let mut known: Vec<&String> = newest
            .filter(|change| change.conversation == conversation && change.deed == Deed::Insert)
            .map(|change| &change.row)
            .filter(|row| self.book.rows.contains_key(*row) && !touched.contains(*row))
            .take(10)
            .collect();
        if known.is_empty() {
            return None;
        }
        let place = self.dice.random_range(0..known.len());
        Some(known.swap_remove(place).clone())
    }

    fn other_audience(&mut self, conversation: usize) -> BTreeSet<usize> {
        let mut audience = BTreeSet::clone(&self.book.audiences[&conversation]);
        for _ in 0..self.dice.random_range(1..4) {
            if self.dice.random_bool(0.5) && audience.len() > 1 {
                let place = self.dice.random_range(0..audience.len());
                let gone = *audience.iter().nth(place).unwrap();
                audience.remove(&gone);
            } else {
                audience.insert(self.dice.random_range(0..self.people));
            }
        }
        audience
    }

    /// Looks at the newest message as somebody: the book must be right.
    async fn look(&mut self, session: &Session) {
        let newest = self.book.changes.last().unwrap();
        let (row, conversation, audience) = (
            newest.row.clone(),
            newest.conversation,
            Arc::clone(&newest.audience),
        );
        if newest.deed == Deed::Members {
            return;
        }
        let reader = if self.dice.random_bool(0.5) {
            let place = self.dice.random_range(0..audience.len());
            *audience.iter().nth(place).unwrap()
        } else {
            self.dice.random_range(0..self.people)
        };
        let claims = json!({"sub": person(reader), "role": "authenticated"});
        session
            .run(&format!(
                "begin; set local request.jwt.claims = '{claims}'; set local role authenticated"
            ))
            .await;
        let shown = session
            .text(&format!("select content from messages where id = '{row}'"))
            .await;
        session.run("rollback").await;
        let content = self.book.rows.get(&row).map(|(_, content)| content.clone());
        let expected = content.filter(|_| audience.contains(&reader));
        assert_eq!(shown, expected, "{conversation} {row} {reader}");
        self.book.witnessed += 1;
    }
}

/// What the connections of somebody amount to.
#[derive(Debug, Default)]
pub(super) struct Sum {
    pub(super) received: usize,
    /// Came on two connections.
    repeated: usize,
    /// Committed while nobody served, and only a later version of the row came.
    merged: usize,
    /// Committed while nobody served, and the right to see it was lost since.
    lost_right: usize,
    /// Deletions that a position does not bring back, or that a filter cannot be held against any more.
    unsaid: usize,
    /// Committed while nobody served, and the right to see it was given since.
    granted: usize,
    /// Deletions of what it could not see, without anything but the key.
    bare: usize,
}

impl Sum {
    pub(super) fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.repeated += other.repeated;
        self.merged += other.merged;
        self.lost_right += other.lost_right;
        self.unsaid += other.unsaid;
        self.bare += other.bare;
        self.granted += other.granted;
    }
}

/// Connections of which each goes on where the one before ended.
#[derive(Debug)]
struct Chain {
    subscribed_at: Instant,
    is_last: bool,
    /// By writer, places in its book.
    got: Vec<BTreeSet<usize>>,
}

/// The books of all writers.
#[derive(Debug)]
pub(super) struct Ledger {
    books: Vec<Book>,
    /// Writer and place in its book, by mark.
    places: HashMap<String, (usize, usize)>,
}

impl Ledger {
    pub(super) fn new(books: Vec<Book>) -> Self {
        let mut places = HashMap::new();
        for (writer, book) in books.iter().enumerate() {
            for (place, change) in book.changes.iter().enumerate() {
                places.insert(change.mark.clone(), (writer, place));
            }
        }
        Self { books, places }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn witnessed(&self) -> usize {
        self.books.iter().map(|book| book.witnessed).sum()
    }

    /// Contents of the messages that this person may see in the end.
    pub(super) fn visible_to(&self, person: usize) -> BTreeSet<String> {
        let of = |book: &Book| {
            let visible = book.rows.values();
            let visible =
                visible.filter(|(conversation, _)| book.audiences[conversation].contains(&person));
            visible
                .map(|(_, content)| content.clone())
                .collect::<Vec<_>>()
        };
        self.books.iter().flat_map(of).collect()
    }

    /// From the sending of each INSERT until it was there; of those that were sent when the guest was subscribed.
    pub(super) fn latencies(&self, guest: &Guest) -> Vec<Duration> {
        let received = (guest.stays.iter())
            .flat_map(|stay| stay.received.iter().map(move |arrival| (stay, arrival)));
        received
            .filter_map(|(stay, arrival)| {
                let (writer, place) = *self.places.get(&arrival.mark)?;
                let change = &self.books[writer].changes[place];
                let is_live = change.deed == Deed::Insert && change.started > stay.subscribed_at;
                is_live.then(|| arrival.at.saturating_duration_since(change.started))
            })
            .collect()
    }

    /// Holds what came against what should have.
    pub(super) fn check(&self, guest: &Guest) -> Result<Sum, String> {
        let mut sum = Sum::default();
        let mut chains: Vec<Chain> = Vec::new();
        for stay in &guest.stays {
            let got = self.places_of(guest, stay, &mut sum)?;
            if !stay.continues || chains.is_empty() {
                chains.push(Chain {
                    subscribed_at: stay.subscribed_at,
                    is_last: false,
                    got: vec![BTreeSet::new(); self.books.len()],
                });
            }
            let chain = chains.last_mut().unwrap();
            chain.is_last = stay.is_last;
            for (writer, got) in got.into_iter().enumerate() {
                sum.received += got.len();
                for place in got {
                    sum.repeated += usize::from(!chain.got[writer].insert(place));
                }
            }
        }
        // A cursor is exact; a session goes on where the client has certainly been.
        if sum.repeated > 0 && guest.return_by != ReturnBy::Resume {
            return Err(format!("{} changes came again", sum.repeated));
        }
        for chain in &chains {
            for (writer, got) in chain.got.iter().enumerate() {
                self.without_gap(guest, chain, writer, got, &mut sum)?;
            }
        }
        Ok(sum)
    }

    /// By writer, the places of what one connection got, in order; each may be seen.
    fn places_of(
        &self,
        guest: &Guest,
        stay: &Stay,
        sum: &mut Sum,
    ) -> Result<Vec<Vec<usize>>, String> {
        let mut got: Vec<Vec<usize>> = vec![Vec::new(); self.books.len()];
        let mut newest = 0;
        for arrival in &stay.received {
            let Some(&(writer, place)) = self.places.get(&arrival.mark) else {
                return Err(format!("{arrival:?} was never committed"));
            };
            let change = &self.books[writer].changes[place];
            let is_visible = change.audience.contains(&guest.person);
            let restarted = guest.stays.len() > 1;
            // What was deleted while nobody served can no longer be looked at.
            let is_bare = arrival.is_bare && restarted;
            // What committed while nobody served is shown as a SELECT shows it now.
            let later = self.books[writer].changes.iter().skip(place);
            let is_granted = restarted
                && !arrival.is_bare
                && later
                    .filter(|later| later.conversation == change.conversation)
                    .any(|later| later.audience.contains(&guest.person));
            if !guest.wants(change.conversation, change.deed)
                || !(is_visible || is_bare || is_granted)
            {
                return Err(format!("{change:?} is none of its business: {arrival:?}"));
            }
            if arrival.lsn < newest {
                return Err(format!("{change:?} came after a later commit"));
            }
            newest = arrival.lsn;
            if !is_visible {
                sum.bare += usize::from(is_bare);
                sum.granted += usize::from(is_granted);
                continue;
            }
            if got[writer].last().is_some_and(|last| *last >= place) {
                return Err(format!("{change:?} came again, or too late"));
            }
            got[writer].push(place);
        }
        Ok(got)
    }

    /// Whether it is the deletion of a row that came and went between two connections.
    fn was_never_told(
        &self,
        writer: usize,
        change: &Change,
        chain: &Chain,
        got: &BTreeSet<usize>,
    ) -> bool {
        let versions = self.books[writer].changes.iter().enumerate();
        let mut versions = versions.filter(|(_, version)| version.row == change.row);
        change.deed == Deed::Delete
            && versions.all(|(place, version)| {
                version.started > chain.subscribed_at && !got.contains(&place)
            })
    }

    /// Whether all came that was committed from the join to the last change, or to the end.
    fn without_gap(
        &self,
        guest: &Guest,
        chain: &Chain,
        writer: usize,
        got: &BTreeSet<usize>,
        sum: &mut Sum,
    ) -> Result<(), String> {
        let book = &self.books[writer];
        let first = got.first().copied().unwrap_or(usize::MAX);
        let last = if chain.is_last {
            usize::MAX
        } else {
            got.last().copied().unwrap_or(0)
        };
        for (place, change) in book.changes.iter().enumerate() {
            let due = place <= last && (place >= first || change.started > chain.subscribed_at);
            if !due
                || got.contains(&place)
                || !guest.wants(change.conversation, change.deed)
                || !change.audience.contains(&guest.person)
            {
                continue;
            }
            let later = || book.changes.iter().skip(place + 1);
            let restarted = guest.stays.len() > 1;
            if restarted
                && later().any(|later| {
                    later.conversation == change.conversation
                        && !later.audience.contains(&guest.person)
                })
            {
                sum.lost_right += 1;
            } else if restarted
                && (later().any(|later| later.row == change.row)
                    || self.was_never_told(writer, change, chain, got))
            {
                sum.merged += 1;
            } else if restarted
                && (guest.return_by == ReturnBy::Since || guest.is_filtered())
                && change.deed == Deed::Delete
            {
                sum.unsaid += 1;
            } else {
                let versions = book.changes.iter().enumerate();
                let versions = versions.filter(|(_, version)| version.row == change.row);
                let versions: Vec<(Deed, bool, bool)> = versions
                    .map(|(place, version)| {
                        let is_visible = version.audience.contains(&guest.person);
                        (version.deed, is_visible, got.contains(&place))
                    })
                    .collect();
                let joins: Vec<String> = (guest.stays.iter())
                    .map(
                        |stay| match stay.subscribed_at.checked_duration_since(change.started) {
                            Some(later) => format!("{later:.1?} after it"),
                            None => "before it".to_owned(),
                        },
                    )
                    .collect();
                return Err(format!(
                    "{change:?} is missing; joined {joins:?}; versions, visible, received: {versions:?}"
                ));
            }
        }
        Ok(())
    }
}
