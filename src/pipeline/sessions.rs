//! Who may go on where it was: the sessions of sockets that have a resume ID, and how far each has got (protocol.md §11).
//!
//! Joins, acknowledgements and ends go in; what a join goes on from comes out. Pure, and bounded by number: of one that had
//! to be forgotten it is not said that it never was.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::history::Position;
use super::positions::Taken;
use super::subscriber::SubscriberId;
use crate::auth::Claims;
use crate::change::{Cursor, Epoch, Lsn};
use crate::routing::RequestedBinding;
use crate::topic::Room;

/// Sessions of one place at a time: tabs that share an ID.
const PER_PLACE_MAX: usize = 8;
/// Sessions in all; some hundred bytes each.
const SESSIONS_MAX: usize = 200_000;
/// Nobody comes back after so long.
pub(super) const FORGET_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Before everything, so that nobody can go on from there.
pub(super) const NOWHERE: Position = Position {
    lsn: Lsn::ZERO,
    order: 0,
};

/// What a session stands for: a resume ID, a topic and bindings, hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(u128);

/// A connection's key, hashed: whose session it is where the token has no subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyHash(u128);

/// Whose it is: role and subject, or the connection's key, hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Holder(u128);

/// What a join goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume {
    /// Where.
    pub place: Place,
    /// With which key.
    pub key: KeyHash,
    /// Only heartbeats are answers of the peer: something between us and it sends pongs.
    pub by_heartbeat: bool,
}

impl Place {
    /// What a channel with these bindings stands for.
    #[must_use]
    pub fn new(id: &str, room: &Room, bindings: &[RequestedBinding]) -> Self {
        let bindings = bindings.iter();
        let bindings: Vec<&[u8]> = bindings
            .map(|binding| binding.json.get().as_bytes())
            .collect();
        Self(hash_of(id, room, &bindings) & !1)
    }

    /// What a channel stands for that hears what the database broadcasts.
    #[must_use]
    pub fn of_room(id: &str, room: &Room) -> Self {
        Self(hash_of(id, room, &[]) | 1)
    }

    /// Whether it is about broadcasts, and not about changes.
    pub(super) const fn is_of_room(self) -> bool {
        self.0 & 1 == 1
    }

    /// As it is stored.
    pub(super) const fn number(self) -> u128 {
        self.0
    }

    pub(super) const fn of_number(number: u128) -> Self {
        Self(number)
    }
}

impl KeyHash {
    /// Of a connection's key or token.
    #[must_use]
    pub fn new(key: &str) -> Self {
        Self(hash(&[key.as_bytes()]))
    }
}

impl Holder {
    /// As it is stored.
    pub(super) const fn number(self) -> u128 {
        self.0
    }

    pub(super) const fn of_number(number: u128) -> Self {
        Self(number)
    }

    /// Whoever joins with these claims, over a connection with this key.
    pub(super) fn new(claims: &Claims, key: KeyHash) -> Self {
        let role = claims.role.as_bytes();
        Self(match &claims.subject {
            Some(subject) => hash(&[b"subject", role, subject.as_bytes()]),
            None => hash(&[b"key", role, &key.0.to_be_bytes()]),
        })
    }
}

fn hash_of(id: &str, room: &Room, more: &[&[u8]]) -> u128 {
    let private: &[u8] = if room.private { b"private" } else { b"public" };
    let mut parts = vec![id.as_bytes(), room.topic.as_str().as_bytes(), private];
    parts.extend(more);
    hash(&parts)
}

/// 128 bits of SHA-256 over the parts, each with its length.
fn hash(parts: &[&[u8]]) -> u128 {
    let mut hash = Sha256::new();
    for part in parts {
        let length = u64::try_from(part.len()).unwrap_or(u64::MAX);
        hash.update(length.to_be_bytes());
        hash.update(part);
    }
    let digest: [u8; 32] = hash.finalize().into();
    let half = digest.first_chunk::<16>().copied().unwrap_or_default();
    u128::from_be_bytes(half)
}

/// How much of what was sent is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledged {
    /// The peer's endpoint has it.
    Received,
    /// The application has handled it.
    Processed,
}

/// How a socket ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// With a close frame: what was received was handled.
    Said,
    /// Without a word.
    Silent,
}

/// A session as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) place: Place,
    pub(super) holder: Holder,
    /// What the application has handled; `None`: the session is over.
    pub(super) cursor: Option<Cursor>,
}

/// What is to be stored at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Batch {
    /// Rises by one.
    pub(super) number: u64,
    pub(super) records: Vec<Record>,
    /// Sessions were forgotten that somebody may come back for.
    pub(super) forgot: bool,
}

/// What a join goes on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// This position, which is its own now.
    Position(Cursor),
    /// There was no such session.
    New,
    /// There may have been one.
    Unknown,
    /// Somebody has it who may be gone.
    Held(SubscriberId),
    /// It is somebody else's.
    Differs,
}

#[derive(Debug)]
struct Session {
    holder: Holder,
    epoch: Epoch,
    received: Position,
    processed: Position,
    owner: Option<SubscriberId>,
    touched: Instant,
    /// The connection over which it was told to start over. Whether it heard of it is known once it comes back there.
    told: Option<u64>,
    /// Somebody else has taken a copy because the owner may be gone; and how often the owner has acknowledged since.
    doubted: Option<u32>,
    /// Number of the batch in which it is first stored.
    batch: u64,
}

/// What becomes of a session, for those who look into what somebody was (not) told.
fn note(id: SubscriberId, what: &str, session: &Session) {
    tracing::debug!(
        connection = id.connection,
        membership = id.membership,
        received = %session.cursor(session.received),
        processed = %session.cursor(session.processed),
        "a session {what}"
    );
}

/// Acknowledgements after which an owner was there when it was doubted: the first may have been on its way, the second is
/// sent by who has received the answer to the first.
const SIGNS_OF_LIFE: u32 = 2;

/// All sessions.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    places: HashMap<Place, Vec<Session>>,
    owners: HashMap<SubscriberId, (Place, Holder)>,
    count: usize,
    /// Parked ones by the time since when, to be forgotten first.
    parked: BTreeSet<(Instant, Place)>,
    /// Until then a session that is not known may have been.
    incomplete_until: Option<Instant>,
    /// What is to be stored; no more than there are sessions, or were since it was last taken.
    changed: HashMap<(Place, Holder), Option<Cursor>>,
    stores: bool,
    /// The batch that is being gathered, and the last that was written.
    batch: u64,
    written: u64,
    /// Some were forgotten since the last batch.
    forgot: bool,
    /// Places where somebody may be without the session that it had: another one has taken it, or it was forgotten.
    lent: HashSet<Place>,
}

impl Session {
    fn new(holder: Holder, at: Cursor, owner: Option<SubscriberId>, touched: Instant) -> Self {
        let position = Position::from(at);
        Self {
            holder,
            epoch: at.epoch,
            received: position,
            processed: position,
            owner,
            touched,
            told: None,
            doubted: None,
            batch: 0,
        }
    }

    fn cursor(&self, position: Position) -> Cursor {
        Cursor {
            epoch: self.epoch,
            commit_lsn: position.lsn,
            order: position.order,
        }
    }
}

impl Sessions {
    /// Those that were stored, or `None` if that is not known; then unknown ones may have been until `incomplete_until`.
    pub(super) fn load(
        &mut self,
        now: Instant,
        stored: impl IntoIterator<Item = Record>,
        incomplete_until: Option<Instant>,
        stores: bool,
    ) {
        self.stores = stores;
        self.incomplete_until = incomplete_until;
        // Nothing is written before there is something.
        self.batch = self.batch.max(1);
        for record in stored {
            // Whose owner is here is known better.
            let known = self.places.get(&record.place).into_iter().flatten();
            let mut known = known.filter(|session| session.holder == record.holder);
            if let Some(cursor) = record.cursor.filter(|_| known.next().is_none()) {
                self.add(record.place, Session::new(record.holder, cursor, None, now));
                self.parked.insert((now, record.place));
                self.lent.insert(record.place);
            }
        }
    }

    /// Nothing is known of earlier sessions, and nothing is stored: for long an unknown one may have been.
    pub(super) fn forget_all(&mut self, now: Instant) {
        self.load(now, [], now.checked_add(FORGET_AFTER), false);
    }

    /// The store is ours.
    pub(super) fn take_over(&mut self, now: Instant, taken: Taken) {
        let Taken {
            records,
            was_ours,
            doubt,
            stores,
        } = taken;
        let until = doubt.and_then(|doubt| now.checked_add(doubt));
        let until = until.max(self.incomplete_until);
        if stores && !was_ours {
            self.forget_parked();
        }
        self.load(now, records, until, stores);
        if stores && !was_ours {
            self.store_all();
        }
    }

    /// Another process has had the store meanwhile. Only those who are here are where they were.
    fn forget_parked(&mut self) {
        self.parked.clear();
        let mut places = std::mem::take(&mut self.places);
        places.retain(|_, sessions| {
            sessions.retain(|session| session.owner.is_some());
            !sessions.is_empty()
        });
        self.count = places.values().map(Vec::len).sum();
        self.lent = places.keys().copied().collect();
        self.places = places;
    }

    /// All that is known is to be stored once more.
    pub(super) fn store_all(&mut self) {
        let known = self
            .places
            .iter()
            .flat_map(|(place, sessions)| sessions.iter().map(|session| (*place, session.holder)));
        let known: Vec<(Place, Holder)> = known.collect();
        for (place, holder) in known {
            self.store(place, holder);
        }
    }

    fn add(&mut self, place: Place, session: Session) {
        let sessions = self.places.entry(place).or_default();
        sessions.push(session);
        self.count = self.count.saturating_add(1);
        if sessions.len() > PER_PLACE_MAX
            && let Some(index) = sessions.iter().position(|session| session.owner.is_none())
        {
            sessions.remove(index);
            self.count = self.count.saturating_sub(1);
            self.lent.insert(place);
        }
    }

    /// Nobody has a session of this place any more.
    fn drop_place(&mut self, place: Place) {
        self.places.remove(&place);
        self.lent.remove(&place);
    }

    /// A join asks for its session.
    pub(super) fn claim(
        &mut self,
        now: Instant,
        place: Place,
        holder: Holder,
        id: SubscriberId,
    ) -> Claim {
        let incomplete = self.incomplete_until.is_some_and(|until| now < until);
        let Some(sessions) = self.places.get_mut(&place) else {
            return if incomplete {
                Claim::Unknown
            } else {
                Claim::New
            };
        };
        let heard =
            |session: &Session| session.holder == holder && session.told == Some(id.connection);
        let before = sessions.len();
        sessions.retain(|session| !heard(session));
        if sessions.len() < before {
            self.count = self.count.saturating_sub(before - sessions.len());
            if sessions.is_empty() {
                self.drop_place(place);
            }
            return Claim::New;
        }
        let is_parked =
            |session: &&mut Session| session.owner.is_none() && session.holder == holder;
        // Of several nobody knows which was whose: the earliest has everything that any of them needs.
        let mut parked = sessions.iter_mut().filter(is_parked);
        if let Some(first) = parked.next() {
            let mut chosen = first;
            for other in parked {
                if other.processed < chosen.processed {
                    chosen = other;
                }
            }
            note(id, "goes on", chosen);
            chosen.owner = Some(id);
            // What came over the connection before and was not handled comes again, and must be received again.
            chosen.received = chosen.processed;
            let since = chosen.touched;
            let claim = Claim::Position(chosen.cursor(chosen.processed));
            let is_of_another = |other: &Session| other.owner.is_none() && other.touched == since;
            if !sessions.iter().any(is_of_another) {
                self.parked.remove(&(since, place));
            }
            self.owners.insert(id, (place, holder));
            self.lent.insert(place);
            return claim;
        }
        let held = sessions.iter().filter(|session| session.holder == holder);
        let first = held.min_by_key(|session| session.processed);
        if let Some(owner) = first.and_then(|session| session.owner) {
            return Claim::Held(owner);
        }
        match sessions.is_empty() {
            true if incomplete => Claim::Unknown,
            true => Claim::New,
            false => Claim::Differs,
        }
    }

    /// A session begins.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        (place, holder): (Place, Holder),
        id: SubscriberId,
        from: Cursor,
    ) {
        self.end(id);
        self.owners.insert(id, (place, holder));
        let session = Session {
            batch: self.batch,
            ..Session::new(holder, from, Some(id), now)
        };
        self.add(place, session);
        self.store(place, holder);
        if self.count > SESSIONS_MAX {
            self.forget_oldest(now);
        }
    }

    /// Whether the sessions of a place outlive the process, or cannot. Nobody should be told before that it may come back there:
    /// who still waits for the session of another one, or has a copy of it, is known by that one's.
    pub(super) fn is_stored(&self, place: Place) -> bool {
        let mut sessions = self.places.get(&place).into_iter().flatten();
        !self.stores || sessions.all(|session| session.batch <= self.written)
    }

    /// Whether somebody may have lost its session here to another one, and would be taken for somebody new.
    pub(super) fn is_lent(&self, place: Place) -> bool {
        self.lent.contains(&place)
    }

    /// Somebody who waited for a session of this place has left without one, and was told that it is subscribed.
    pub(super) fn lend(&mut self, place: Place) {
        if self.places.contains_key(&place) {
            self.lent.insert(place);
        }
    }

    /// A copy of the session of somebody who may be gone, or may not: the position that has everything either needs.
    pub(super) fn share(
        &mut self,
        now: Instant,
        owner: SubscriberId,
        id: SubscriberId,
    ) -> Option<Cursor> {
        let (place, holder) = self.owners.get(&owner).copied()?;
        let session = self.owned(place, owner)?;
        session.doubted = Some(0);
        let cursor = session.cursor(session.processed);
        self.owners.insert(id, (place, holder));
        self.lent.insert(place);
        self.add(place, Session::new(holder, cursor, Some(id), now));
        Some(cursor)
    }

    /// The peer has got so far.
    pub(super) fn acknowledge(&mut self, id: SubscriberId, what: Acknowledged, to: Cursor) {
        let Some((place, holder)) = self.owners.get(&id).copied() else {
            return;
        };
        let Some(session) = self.owned(place, id) else {
            return;
        };
        if session.epoch != to.epoch {
            return;
        }
        let position = Position::from(to);
        session.received = session.received.max(position);
        if what == Acknowledged::Processed {
            let signs = session.doubted.map(|signs| signs.saturating_add(1));
            session.doubted = signs.filter(|signs| *signs < SIGNS_OF_LIFE);
        }
        if what == Acknowledged::Processed && position > session.processed {
            session.processed = position;
            self.store(place, holder);
        }
    }

    /// Its socket ended. Whoever waits for the session may have it now.
    pub(super) fn park(&mut self, now: Instant, id: SubscriberId, farewell: Farewell) {
        let Some((place, holder)) = self.owners.get(&id).copied() else {
            return;
        };
        let Some(session) = self.owned(place, id) else {
            return;
        };
        if session.doubted.is_some() {
            // It was gone when another one came, which is the same.
            return self.end(id);
        }
        self.owners.remove(&id);
        let Some(session) = self.owned(place, id) else {
            return;
        };
        note(id, "is parked", session);
        session.owner = None;
        session.touched = now;
        if farewell == Farewell::Said && session.received > session.processed {
            session.processed = session.received;
            self.store(place, holder);
        }
        self.parked.insert((now, place));
    }

    /// It is told to start over. What it has got so far counts for nothing any more, and that it was told may be lost with
    /// its connection: who comes back over another one is told again, and so is, over any, whose join was refused instead
    /// (`is_told`).
    pub(super) fn reset(&mut self, id: SubscriberId, is_told: bool) {
        let Some((place, holder)) = self.owners.remove(&id) else {
            return;
        };
        let Some(session) = self.owned(place, id) else {
            return;
        };
        note(id, "starts over", session);
        session.owner = None;
        session.told = is_told.then_some(id.connection);
        session.received = NOWHERE;
        session.processed = NOWHERE;
        let touched = session.touched;
        self.store(place, holder);
        self.parked.insert((touched, place));
    }

    /// The channel was left: there is nothing to go on with.
    pub(super) fn end(&mut self, id: SubscriberId) {
        let Some((place, holder)) = self.owners.remove(&id) else {
            return;
        };
        if let Some(sessions) = self.places.get_mut(&place) {
            let before = sessions.len();
            sessions.retain(|session| session.owner != Some(id));
            self.count = self
                .count
                .saturating_sub(before.saturating_sub(sessions.len()));
            if sessions.is_empty() {
                self.drop_place(place);
            }
        }
        self.store(place, holder);
    }

    /// Its holder has nothing to come back for.
    pub(super) fn forget(&mut self, place: Place, holder: Holder) {
        if let Some(sessions) = self.places.get_mut(&place) {
            let is_gone =
                |session: &mut Session| session.owner.is_none() && session.holder == holder;
            let gone: Vec<Session> = sessions.extract_if(.., is_gone).collect();
            self.count = self.count.saturating_sub(gone.len());
            for session in gone {
                let is_of_another =
                    |other: &Session| other.owner.is_none() && other.touched == session.touched;
                if !sessions.iter().any(is_of_another) {
                    self.parked.remove(&(session.touched, place));
                }
            }
            if sessions.is_empty() {
                self.drop_place(place);
            }
            self.store(place, holder);
        }
    }

    /// The token that followed a join without one says whose the session is.
    pub(super) fn rebind(&mut self, id: SubscriberId, holder: Holder) {
        let Some((place, before)) = self.owners.get(&id).copied() else {
            return;
        };
        if before == holder {
            return;
        }
        if let Some(session) = self.owned(place, id) {
            session.holder = holder;
        }
        self.owners.insert(id, (place, holder));
        self.store(place, before);
        self.store(place, holder);
    }

    /// Everything up to this batch was written.
    pub(super) fn written(&mut self, batch: u64) {
        self.written = self.written.max(batch);
    }

    /// What has changed since the last call, as a batch with this number.
    pub(super) fn take_changed(&mut self) -> Batch {
        let number = self.batch;
        self.batch = number.saturating_add(1);
        let changed = std::mem::take(&mut self.changed);
        let record = |((place, holder), cursor)| Record {
            place,
            holder,
            cursor,
        };
        Batch {
            number,
            records: changed.into_iter().map(record).collect(),
            forgot: std::mem::take(&mut self.forgot),
        }
    }

    /// Whether something is to be stored.
    pub(super) fn has_changed(&self) -> bool {
        !self.changed.is_empty() || self.forgot
    }

    /// Whether the subscriber has a session.
    pub(super) fn has(&self, id: SubscriberId) -> bool {
        self.owners.contains_key(&id)
    }

    /// Sessions in all.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.count
    }

    fn owned(&mut self, place: Place, id: SubscriberId) -> Option<&mut Session> {
        let sessions = self.places.get_mut(&place)?;
        sessions
            .iter_mut()
            .find(|session| session.owner == Some(id))
    }

    /// Notes how far the sessions of a place and holder are: of several, the one that needs most.
    fn store(&mut self, place: Place, holder: Holder) {
        if !self.stores {
            return;
        }
        let sessions = self.places.get(&place).into_iter().flatten();
        let cursor = sessions
            .filter(|session| session.holder == holder)
            .min_by_key(|session| session.processed)
            .map(|session| session.cursor(session.processed));
        self.changed.insert((place, holder), cursor);
    }

    /// Lets go of a parked session; from now on an unknown one may have been this.
    fn forget_oldest(&mut self, now: Instant) {
        while let Some((_, place)) = self.parked.pop_first() {
            let Some(sessions) = self.places.get_mut(&place) else {
                continue;
            };
            let before = sessions.len();
            let parked = sessions.iter().filter(|session| session.owner.is_none());
            let holders: Vec<Holder> = parked.map(|session| session.holder).collect();
            sessions.retain(|session| session.owner.is_some());
            let gone = before.saturating_sub(sessions.len());
            if sessions.is_empty() {
                self.drop_place(place);
            } else if gone > 0 {
                self.lent.insert(place);
            }
            if gone > 0 {
                self.count = self.count.saturating_sub(gone);
                self.incomplete_until = now.checked_add(FORGET_AFTER);
                self.forgot = true;
                for holder in holders {
                    self.store(place, holder);
                }
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place(1);
    const ALICE: Holder = Holder(1);
    const BOB: Holder = Holder(2);

    fn id(connection: u64) -> SubscriberId {
        SubscriberId {
            connection,
            membership: 1,
        }
    }

    fn cursor(lsn: u64) -> Cursor {
        Cursor {
            epoch: Epoch(1),
            commit_lsn: Lsn::new(lsn),
            order: 0,
        }
    }

    fn begun(now: Instant) -> Sessions {
        let mut sessions = Sessions::default();
        assert_eq!(sessions.claim(now, PLACE, ALICE, id(1)), Claim::New);
        sessions.begin(now, (PLACE, ALICE), id(1), cursor(100));
        sessions
    }

    #[test]
    fn a_farewell_says_that_what_was_received_was_handled() {
        let now = crate::clock::instant();
        for (farewell, expected) in [(Farewell::Said, 300), (Farewell::Silent, 200)] {
            let mut sessions = begun(now);
            sessions.acknowledge(id(1), Acknowledged::Processed, cursor(200));
            sessions.acknowledge(id(1), Acknowledged::Received, cursor(300));
            sessions.acknowledge(id(1), Acknowledged::Received, cursor(250));
            sessions.park(now, id(1), farewell);
            let claim = sessions.claim(now, PLACE, ALICE, id(2));
            assert_eq!(claim, Claim::Position(cursor(expected)));
        }
    }

    #[test]
    fn a_farewell_says_nothing_of_what_came_over_an_earlier_connection() {
        let now = crate::clock::instant();
        let mut sessions = begun(now);
        sessions.acknowledge(id(1), Acknowledged::Processed, cursor(200));
        sessions.acknowledge(id(1), Acknowledged::Received, cursor(300));
        sessions.park(now, id(1), Farewell::Silent);
        sessions.claim(now, PLACE, ALICE, id(2));
        sessions.acknowledge(id(2), Acknowledged::Received, cursor(250));
        sessions.park(now, id(2), Farewell::Said);
        let claim = sessions.claim(now, PLACE, ALICE, id(3));
        assert_eq!(claim, Claim::Position(cursor(250)));
    }

    #[test]
    fn others_and_those_who_are_there_keep_theirs() {
        let now = crate::clock::instant();
        let mut sessions = begun(now);
        assert_eq!(sessions.claim(now, PLACE, ALICE, id(2)), Claim::Held(id(1)));
        assert_eq!(sessions.claim(now, PLACE, BOB, id(2)), Claim::Differs);
        sessions.park(now, id(1), Farewell::Said);
        assert_eq!(sessions.claim(now, PLACE, BOB, id(2)), Claim::Differs);
        let claim = sessions.claim(now, PLACE, ALICE, id(3));
        assert_eq!(claim, Claim::Position(cursor(100)), "it was not consumed");
    }

    #[test]
    fn who_was_told_to_start_over_does_and_who_was_refused_instead_is_still_to_be_told() {
        let now = crate::clock::instant();
        for (is_told, connection, starts_over) in
            [(true, 1, true), (true, 2, false), (false, 1, false)]
        {
            let mut sessions = begun(now);
            sessions.reset(id(1), is_told);
            let again = SubscriberId {
                membership: 2,
                ..id(connection)
            };
            let claim = sessions.claim(now, PLACE, ALICE, again);
            assert_eq!(claim == Claim::New, starts_over, "{claim:?}");
        }
    }

    #[test]
    fn of_two_that_were_parked_the_earlier_goes_first() {
        let now = crate::clock::instant();
        let mut sessions = begun(now);
        sessions.begin(now, (PLACE, ALICE), id(2), cursor(50));
        sessions.park(now, id(1), Farewell::Said);
        sessions.park(now, id(2), Farewell::Said);
        let claim = sessions.claim(now, PLACE, ALICE, id(3));
        assert_eq!(claim, Claim::Position(cursor(50)));
    }

    #[test]
    fn who_may_be_gone_leaves_nothing_behind_unless_it_was_there() {
        let now = crate::clock::instant();
        for (signs, expected) in [
            (1, Claim::Position(cursor(300))),
            (2, Claim::Position(cursor(200))),
        ] {
            let mut sessions = begun(now);
            assert_eq!(sessions.share(now, id(1), id(2)), Some(cursor(100)));
            for _ in 0..signs {
                sessions.acknowledge(id(1), Acknowledged::Processed, cursor(200));
            }
            sessions.acknowledge(id(2), Acknowledged::Processed, cursor(300));
            sessions.park(now, id(1), Farewell::Silent);
            sessions.park(now, id(2), Farewell::Silent);
            assert_eq!(sessions.claim(now, PLACE, ALICE, id(3)), expected);
        }
    }

    #[test]
    fn coming_back_leaves_no_trace() {
        let now = crate::clock::instant();
        let mut sessions = begun(now);
        for number in 1..100 {
            sessions.park(
                now + Duration::from_secs(number),
                id(number),
                Farewell::Silent,
            );
            sessions.claim(now, PLACE, ALICE, id(number + 1));
        }
        assert_eq!((sessions.parked.len(), sessions.len()), (0, 1));
    }

    #[test]
    fn who_left_has_nothing_to_go_on_with() {
        let now = crate::clock::instant();
        let mut sessions = begun(now);
        sessions.end(id(1));
        assert_eq!(sessions.claim(now, PLACE, ALICE, id(2)), Claim::New);
        assert_eq!(sessions.len(), 0);
    }

    #[test]
    fn what_was_forgotten_is_not_said_never_to_have_been() {
        let now = crate::clock::instant();
        let mut sessions = Sessions::default();
        for number in 0..=SESSIONS_MAX as u64 {
            let place = Place(u128::from(number));
            sessions.begin(now, (place, ALICE), id(number), cursor(1));
            sessions.park(now, id(number), Farewell::Silent);
        }
        assert!(sessions.len() <= SESSIONS_MAX);
        assert_eq!(sessions.claim(now, Place(0), ALICE, id(1)), Claim::Unknown);
        let later = now + FORGET_AFTER;
        assert_eq!(sessions.claim(later, Place(0), ALICE, id(1)), Claim::New);
    }

    #[test]
    fn what_is_stored_is_what_was_handled() {
        let now = crate::clock::instant();
        let mut sessions = Sessions::default();
        sessions.load(now, [], Some(now + FORGET_AFTER), true);
        assert_eq!(sessions.claim(now, PLACE, ALICE, id(1)), Claim::Unknown);
        sessions.begin(now, (PLACE, ALICE), id(1), cursor(100));
        sessions.acknowledge(id(1), Acknowledged::Received, cursor(300));
        sessions.acknowledge(id(1), Acknowledged::Processed, cursor(200));
        let Batch {
            number,
            records: stored,
            ..
        } = sessions.take_changed();
        assert!(!sessions.is_stored(PLACE));
        sessions.written(number);
        assert!(sessions.is_stored(PLACE));
        let cursors: Vec<_> = stored.iter().map(|record| record.cursor).collect();
        assert_eq!(cursors, [Some(cursor(200))]);
        sessions.end(id(1));
        assert_eq!(sessions.take_changed().records[0].cursor, None);
        let mut again = Sessions::default();
        again.load(now, stored.last().copied(), None, true);
        let claim = again.claim(now, PLACE, ALICE, id(1));
        assert_eq!(claim, Claim::Position(cursor(200)));
    }
}
