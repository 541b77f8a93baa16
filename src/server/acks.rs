//! What the peer of one socket has acknowledged (protocol.md §11): positions of channels go in as they are sent; pings and
//! heartbeats say how far they came.
//!
//! A pong says that the peer's endpoint has whatever was sent before its ping. Heartbeat n+1 says that the application has
//! handled what was sent before the answer to heartbeat n. Does no I/O, and is there only for sockets with a resume ID.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::change::Cursor;
use crate::pipeline::{KeyHash, Place, Resume};
use crate::routing::RequestedBinding;
use crate::topic::Room;

/// A ping after so long, also when nothing was sent: positions of quiet channels move on.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// A ping after so many changes: a slow peer that comes and goes must get on.
const PING_CHANGES: usize = 200;
/// Pings that wait for their pongs. A peer may answer the last of several only.
const PINGS_MAX: usize = 64;
/// Shortest resume ID: as many letters as a random UUID has, without counting its hyphens, make it as hard to guess.
const ID_LENGTH_MIN: usize = 32;
const ID_LENGTH_MAX: usize = 256;

/// How far channels have got.
type Positions = Vec<(u32, Cursor)>;

/// How far channels have got with both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reached {
    /// Changes.
    pub(super) changes: Positions,
    /// Broadcasts from the database.
    pub(super) broadcasts: Positions,
}

/// What the socket's URL asks for.
pub(super) struct Wish {
    id: Arc<str>,
    /// Pongs mean nothing: something between us and the peer sends them.
    by_heartbeat: bool,
}

impl Wish {
    /// Reads the parameters. `Err`: what was given cannot be an ID.
    pub(super) fn parse(id: Option<&str>, ack: Option<&str>) -> Result<Option<Self>, ()> {
        let Some(id) = id else {
            return Ok(None);
        };
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if !(ID_LENGTH_MIN..=ID_LENGTH_MAX).contains(&id.len()) || !id.bytes().all(is_plain) {
            return Err(());
        }
        Ok(Some(Self {
            id: id.into(),
            by_heartbeat: ack == Some("heartbeat"),
        }))
    }
}

/// The acknowledgements of one socket.
pub(super) struct Acks {
    wish: Wish,
    key: KeyHash,
    /// What was sent last on each channel with bindings; `None` before anything was.
    sent: BTreeMap<u32, Option<Cursor>>,
    /// The same of channels that hear what the database says.
    said: BTreeMap<u32, Option<Cursor>>,
    /// What had been sent before each ping, by its number.
    pings: VecDeque<(u64, Reached)>,
    ping_next: u64,
    ping_at: Instant,
    /// Changes since the last ping.
    unpinged: usize,
    /// What had been sent before the answer to the last heartbeat.
    beat: Reached,
    /// Numbers of pings that were sent to see whether the peer answers, with what asked for it.
    probes: VecDeque<(u64, u64)>,
}

/// What a pong says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pong {
    /// What the peer's endpoint has.
    pub(super) reached: Reached,
    /// It was there when this was asked.
    pub(super) answers: Option<u64>,
}

impl Acks {
    pub(super) fn new(now: Instant, wish: Wish, key: &str) -> Self {
        Self {
            wish,
            key: KeyHash::new(key),
            sent: BTreeMap::new(),
            said: BTreeMap::new(),
            pings: VecDeque::new(),
            ping_next: 1,
            ping_at: now + PING_INTERVAL,
            unpinged: 0,
            beat: Reached::default(),
            probes: VecDeque::new(),
        }
    }

    /// Whether only heartbeats count.
    pub(super) fn by_heartbeat(&self) -> bool {
        self.wish.by_heartbeat
    }

    /// A channel asks for changes; what it is to go on by.
    pub(super) fn join(
        &mut self,
        membership: u32,
        room: &Room,
        bindings: &[RequestedBinding],
    ) -> Resume {
        self.sent.insert(membership, None);
        Resume {
            place: Place::new(&self.wish.id, room, bindings),
            key: self.key,
            by_heartbeat: self.wish.by_heartbeat,
        }
    }

    /// A channel hears what the database says; what it is to go on by.
    pub(super) fn listen(&mut self, membership: u32, room: &Room) -> Resume {
        self.said.insert(membership, None);
        self.of_room(room)
    }

    /// What a channel of this topic goes on by.
    pub(super) fn of_room(&self, room: &Room) -> Resume {
        Resume {
            place: Place::of_room(&self.wish.id, room),
            key: self.key,
            by_heartbeat: self.wish.by_heartbeat,
        }
    }

    /// The channel is gone.
    pub(super) fn leave(&mut self, membership: u32) {
        self.sent.remove(&membership);
        self.said.remove(&membership);
    }

    /// The channels that may come back.
    pub(super) fn memberships(&self) -> Vec<u32> {
        let both: BTreeSet<u32> = self.sent.keys().chain(self.said.keys()).copied().collect();
        both.into_iter().collect()
    }

    /// A broadcast was sent.
    pub(super) fn heard(&mut self, membership: u32, cursor: Cursor) {
        self.unpinged = self.unpinged.saturating_add(1);
        self.hear_up_to(membership, cursor);
    }

    /// Every broadcast up to here was sent.
    pub(super) fn hear_up_to(&mut self, membership: u32, cursor: Cursor) {
        move_on(&mut self.said, membership, cursor);
    }

    /// Changes were sent, of which `payload` is the last.
    pub(super) fn sent(&mut self, membership: u32, payload: &[u8], count: usize) {
        self.unpinged = self.unpinged.saturating_add(count);
        if let Some(cursor) = cursor_of(payload) {
            self.reach(membership, cursor);
        }
    }

    /// Everything up to here was sent.
    pub(super) fn reach(&mut self, membership: u32, cursor: Cursor) {
        move_on(&mut self.sent, membership, cursor);
    }

    fn is_idle(&self) -> bool {
        self.sent.is_empty() && self.said.is_empty()
    }

    /// When [`Self::poll_ping`] will have something to send.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        (!self.is_idle()).then_some(self.ping_at)
    }

    /// The ping that is due.
    pub(super) fn poll_ping(&mut self, now: Instant) -> Option<Bytes> {
        let is_due = !self.is_idle() && self.ping_at <= now;
        if !is_due && self.unpinged < PING_CHANGES {
            return None;
        }
        Some(self.ping(now))
    }

    /// The ping that is due because so much was sent.
    pub(super) fn poll_due(&mut self, now: Instant) -> Option<Bytes> {
        (self.unpinged >= PING_CHANGES).then(|| self.ping(now))
    }

    /// A ping at once.
    pub(super) fn ping(&mut self, now: Instant) -> Bytes {
        self.ping_at = now + PING_INTERVAL;
        self.unpinged = 0;
        let number = self.ping_next;
        self.ping_next = number.saturating_add(1);
        if self.pings.len() >= PINGS_MAX {
            self.pings.pop_front();
        }
        let positions = self.positions();
        self.pings.push_back((number, positions));
        Bytes::copy_from_slice(&number.to_be_bytes())
    }

    /// A ping at once, whose pong answers this question. Nothing else does: what the peer sent before it was asked may arrive
    /// long after it left.
    pub(super) fn probe(&mut self, now: Instant, question: u64) -> Bytes {
        let ping = self.ping(now);
        if self.probes.len() >= PINGS_MAX {
            self.probes.pop_front();
        }
        self.probes
            .push_back((self.ping_next.saturating_sub(1), question));
        ping
    }

    /// A pong came.
    pub(super) fn pong(&mut self, payload: &[u8]) -> Option<Pong> {
        let number = u64::from_be_bytes(payload.try_into().ok()?);
        let place = self.pings.iter().position(|(known, _)| *known == number)?;
        // Those before it were overtaken.
        let (_, reached) = self.pings.drain(..=place).next_back()?;
        let answered = self.probes.partition_point(|(ping, _)| *ping <= number);
        let answers = self.probes.drain(..answered).next_back();
        (!self.wish.by_heartbeat).then(|| Pong {
            reached,
            answers: answers.map(|(_, question)| question),
        })
    }

    /// A heartbeat came and was answered: what the application has handled.
    pub(super) fn beat(&mut self) -> Reached {
        let now = self.positions();
        std::mem::replace(&mut self.beat, now)
    }

    fn positions(&self) -> Reached {
        let known = |positions: &BTreeMap<u32, Option<Cursor>>| -> Positions {
            let positions = positions.iter();
            let known =
                positions.filter_map(|(membership, cursor)| Some((*membership, (*cursor)?)));
            known.collect()
        };
        Reached {
            changes: known(&self.sent),
            broadcasts: known(&self.said),
        }
    }
}

fn move_on(positions: &mut BTreeMap<u32, Option<Cursor>>, membership: u32, cursor: Cursor) {
    if let Some(known) = positions.get_mut(&membership) {
        let place = |cursor: &Cursor| (cursor.commit_lsn, cursor.order);
        let is_later =
            known.is_none_or(|known| known.epoch != cursor.epoch || place(&known) < place(&cursor));
        if is_later {
            *known = Some(cursor);
        }
    }
}

/// The cursor of a change: the last thing in its payload.
fn cursor_of(payload: &[u8]) -> Option<Cursor> {
    const CURSOR_LENGTH: usize = 42;
    let rest = payload.strip_suffix(b"\"}")?;
    let (_, cursor) = rest.split_at_checked(rest.len().checked_sub(CURSOR_LENGTH)?)?;
    Cursor::from_str(std::str::from_utf8(cursor).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Epoch, Lsn};
    use crate::topic::Topic;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    fn cursor(lsn: u64) -> Cursor {
        Cursor {
            epoch: Epoch(1),
            commit_lsn: Lsn::new(lsn),
            order: 0,
        }
    }

    fn changes(lsns: &[u64]) -> Reached {
        Reached {
            changes: lsns.iter().map(|lsn| (1, cursor(*lsn))).collect(),
            broadcasts: Vec::new(),
        }
    }

    fn acks(ack: Option<&str>) -> (Acks, Instant) {
        let now = crate::clock::instant();
        let wish = Wish::parse(Some(ID), ack).unwrap().unwrap();
        let mut acks = Acks::new(now, wish, "key");
        let room = Room {
            topic: Topic::parse("realtime:a").unwrap(),
            private: false,
        };
        let _resume = acks.join(1, &room, &[]);
        (acks, now)
    }

    #[test]
    fn what_cannot_be_guessed_is_an_id() {
        let parse = |id| Wish::parse(Some(id), None).map(|wish| wish.is_some());
        assert_eq!(parse(ID), Ok(true));
        assert_eq!(parse("9f8b1c5e-1f8e-4b7a-9c58-9a4f5d0c2e11"), Ok(true));
        assert_eq!(parse("short"), Err(()));
        assert_eq!(parse(""), Err(()));
        assert_eq!(parse("0123456789abcdef 0123456789abcde"), Err(()));
        assert!(Wish::parse(None, None).is_ok_and(|wish| wish.is_none()));
    }

    #[test]
    fn a_pong_stands_for_all_before_its_ping() {
        let (mut acks, now) = acks(None);
        assert_eq!(acks.poll_ping(now), None);
        acks.sent(
            1,
            format!(r#"{{"a":1,"cursor":"{}"}}"#, cursor(5)).as_bytes(),
            1,
        );
        let later = now + PING_INTERVAL;
        let first = acks.poll_ping(later).unwrap();
        acks.reach(1, cursor(9));
        acks.reach(1, cursor(7));
        let second = acks.ping(later);
        let reached = |pong: Option<Pong>| pong.map(|pong| pong.reached);
        assert_eq!(reached(acks.pong(&first)), Some(changes(&[5])));
        assert_eq!(reached(acks.pong(&second)), Some(changes(&[9])));
        assert_eq!(acks.pong(&second), None);
        assert_eq!(acks.pong(b"not ours"), None);
        acks.leave(1);
        assert_eq!(acks.next_timeout(), None);
    }

    #[test]
    fn many_changes_are_a_reason_for_a_ping() {
        let (mut acks, now) = acks(None);
        acks.sent(1, b"", PING_CHANGES - 1);
        assert_eq!(acks.poll_ping(now), None);
        acks.sent(1, b"", 1);
        assert!(acks.poll_ping(now).is_some());
        assert_eq!(acks.poll_ping(now), None);
    }

    #[test]
    fn changes_and_broadcasts_are_told_apart() {
        let (mut acks, now) = acks(None);
        let room = Room {
            topic: Topic::parse("realtime:b").unwrap(),
            private: true,
        };
        let resume = acks.listen(1, &room);
        assert_ne!(resume.place, acks.join(1, &room, &[]).place);
        let _resume = acks.listen(2, &room);
        acks.reach(1, cursor(5));
        acks.heard(1, cursor(9));
        acks.hear_up_to(2, cursor(7));
        acks.hear_up_to(1, cursor(8));
        assert_eq!(acks.memberships(), [1, 2]);
        let ping = acks.ping(now);
        let reached = acks.pong(&ping).unwrap().reached;
        assert_eq!(reached.changes, [(1, cursor(5))]);
        assert_eq!(reached.broadcasts, [(1, cursor(9)), (2, cursor(7))]);
        acks.leave(1);
        assert_eq!(acks.memberships(), [2]);
        for _ in 0..PING_CHANGES {
            assert_eq!(acks.poll_due(now), None);
            acks.heard(2, cursor(10));
        }
        assert!(acks.poll_due(now).is_some());
    }

    #[test]
    fn the_next_heartbeat_says_what_was_handled() {
        let (mut acks, _) = acks(None);
        acks.reach(1, cursor(5));
        assert_eq!(acks.beat(), changes(&[]));
        acks.reach(1, cursor(9));
        assert_eq!(acks.beat(), changes(&[5]));
        assert_eq!(acks.beat(), changes(&[9]));
    }

    #[test]
    fn pongs_that_others_may_send_mean_nothing() {
        let (mut acks, now) = acks(Some("heartbeat"));
        acks.reach(1, cursor(5));
        let ping = acks.ping(now);
        assert_eq!(acks.pong(&ping), None);
        assert!(acks.by_heartbeat());
    }

    #[test]
    fn only_the_pong_of_its_ping_or_a_later_one_answers_a_question() {
        let (mut acks, now) = acks(None);
        let before = acks.ping(now);
        let probe = acks.probe(now, 7);
        let again = acks.probe(now, 8);
        let answers = |pong: Option<Pong>| pong.and_then(|pong| pong.answers);
        assert_eq!(answers(acks.pong(&before)), None);
        assert_eq!(answers(acks.pong(&probe)), Some(7));
        let after = acks.ping(now);
        assert_eq!(answers(acks.pong(&after)), Some(8));
        assert_eq!(acks.pong(&again), None);
    }
}
