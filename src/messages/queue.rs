//! Who may ask next: turns between identities, so that one whose policy sleeps holds few connections.
//!
//! Requests go in with who asks, and come out one at a time. An identity has a bounded share of the connections; one whose
//! last question was slow has a single one, and all the slow ones together have a bounded share. Holds no connection and
//! reads no clock.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::auth::Claims;

/// All that counts for turns. Subscribers without a subject share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Who {
    role: Box<str>,
    subject: Option<Box<str>>,
}

impl Who {
    pub(super) fn new(claims: &Claims) -> Self {
        Self {
            role: claims.role.clone(),
            subject: claims.subject.clone(),
        }
    }
}

/// How much of what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shares {
    /// Requests that wait, together.
    pub(super) waiting_max: usize,
    /// Of one person.
    pub(super) person: Share,
    /// Of those without a subject, who are many and cannot be told apart.
    pub(super) crowd: Share,
    /// Questions of slow identities that are under way, together.
    pub(super) under_way_slow_max: usize,
    /// What counts as slow.
    pub(super) slow: Duration,
    /// How long an identity counts as slow after its last question.
    pub(super) memory: Duration,
}

/// What one identity may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    /// Requests that wait.
    pub(super) waiting_max: usize,
    /// Questions that are under way.
    pub(super) under_way_max: usize,
}

/// Identities that are remembered as slow.
const SLOW_MAX: usize = 4096;

/// Requests that wait, and who has questions under way.
#[derive(Debug)]
pub(super) struct Queue<T> {
    shares: Shares,
    lines: HashMap<Who, Line<T>>,
    /// Everybody with a waiting request, once; the front is next.
    turns: VecDeque<Who>,
    waiting: usize,
    under_way_slow: usize,
    /// Until when each counts as slow.
    slow: HashMap<Who, Instant>,
}

#[derive(Debug)]
struct Line<T> {
    waiting: VecDeque<(Instant, T)>,
    under_way: usize,
    /// Of those under way, the ones that were begun as slow.
    under_way_slow: usize,
}

/// A request whose turn has come.
#[derive(Debug)]
pub(super) struct Taken<T> {
    pub(super) who: Who,
    pub(super) item: T,
}

impl<T> Queue<T> {
    pub(super) fn new(shares: Shares) -> Self {
        Self {
            shares,
            lines: HashMap::new(),
            turns: VecDeque::new(),
            waiting: 0,
            under_way_slow: 0,
            slow: HashMap::new(),
        }
    }

    /// Requests that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Puts a request at the end of its identity's line; gives it back if too many wait.
    pub(super) fn push(&mut self, now: Instant, who: Who, item: T) -> Result<(), T> {
        let share = self.share(&who);
        let line = self.lines.entry(who.clone()).or_default();
        if self.waiting >= self.shares.waiting_max || line.waiting.len() >= share.waiting_max {
            self.forget_if_idle(&who);
            return Err(item);
        }
        if line.waiting.is_empty() {
            self.turns.push_back(who);
        }
        line.waiting.push_back((now, item));
        self.waiting = self.waiting.saturating_add(1);
        Ok(())
    }

    /// The next request that may be asked; [`Self::done`] must follow.
    pub(super) fn take(&mut self, now: Instant) -> Option<Taken<T>> {
        // Who may not ask yet keeps its place.
        let place = self.turns.iter().position(|who| self.may_ask(now, who))?;
        let who = self.turns.remove(place)?;
        let is_slow = self.is_slow(now, &who);
        let line = self.lines.get_mut(&who)?;
        let (_since, item) = line.waiting.pop_front()?;
        if !line.waiting.is_empty() {
            self.turns.push_back(who.clone());
        }
        self.waiting = self.waiting.saturating_sub(1);
        line.under_way = line.under_way.saturating_add(1);
        if is_slow {
            line.under_way_slow = line.under_way_slow.saturating_add(1);
            self.under_way_slow = self.under_way_slow.saturating_add(1);
        }
        Some(Taken { who, item })
    }

    fn share(&self, who: &Who) -> Share {
        if who.subject.is_some() {
            self.shares.person
        } else {
            self.shares.crowd
        }
    }

    fn is_slow(&self, now: Instant, who: &Who) -> bool {
        self.slow.get(who).is_some_and(|until| now < *until)
    }

    fn may_ask(&self, now: Instant, who: &Who) -> bool {
        let under_way = self.lines.get(who).map_or(0, |line| line.under_way);
        if self.is_slow(now, who) {
            under_way == 0 && self.under_way_slow < self.shares.under_way_slow_max
        } else {
            under_way < self.share(who).under_way_max
        }
    }

    /// A request that was taken has been answered, or was put back.
    pub(super) fn done(&mut self, now: Instant, who: &Who, took: Duration) {
        if let Some(line) = self.lines.get_mut(who) {
            line.under_way = line.under_way.saturating_sub(1);
            if line.under_way_slow > 0 {
                line.under_way_slow = line.under_way_slow.saturating_sub(1);
                self.under_way_slow = self.under_way_slow.saturating_sub(1);
            }
        }
        if took < self.shares.slow {
            self.slow.remove(who);
        } else {
            if self.slow.len() >= SLOW_MAX {
                self.slow.retain(|_, until| now < *until);
            }
            if let Some(until) = now.checked_add(self.shares.memory)
                && self.slow.len() < SLOW_MAX
            {
                self.slow.insert(who.clone(), until);
            }
        }
        self.forget_if_idle(who);
    }

    /// Takes out what has waited for longer than `patience`.
    pub(super) fn expire(&mut self, now: Instant, patience: Duration) -> Vec<T> {
        self.remove(|since| now.saturating_duration_since(since) > patience)
    }

    /// Takes out everything that waits.
    pub(super) fn drain(&mut self) -> Vec<T> {
        self.remove(|_since| true)
    }

    /// Takes out the oldest of each line as long as `goes` says so.
    fn remove(&mut self, goes: impl Fn(Instant) -> bool) -> Vec<T> {
        let mut gone = Vec::new();
        for line in self.lines.values_mut() {
            // The oldest stands in front.
            while line
                .waiting
                .front()
                .is_some_and(|(since, _item)| goes(*since))
            {
                gone.extend(line.waiting.pop_front().map(|(_since, item)| item));
            }
        }
        self.waiting = self.waiting.saturating_sub(gone.len());
        let lines = &self.lines;
        self.turns
            .retain(|who| lines.get(who).is_some_and(|line| !line.waiting.is_empty()));
        self.lines
            .retain(|_who, line| line.under_way > 0 || !line.waiting.is_empty());
        gone
    }

    fn forget_if_idle(&mut self, who: &Who) {
        if (self.lines.get(who)).is_some_and(|line| line.under_way == 0 && line.waiting.is_empty())
        {
            self.lines.remove(who);
        }
    }
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            under_way: 0,
            under_way_slow: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const SHARES: Shares = Shares {
        waiting_max: 6,
        person: Share {
            waiting_max: 4,
            under_way_max: 2,
        },
        crowd: Share {
            waiting_max: 5,
            under_way_max: 3,
        },
        under_way_slow_max: 1,
        slow: Duration::from_secs(1),
        memory: Duration::from_secs(60),
    };

    fn who(subject: &str) -> Who {
        Who {
            role: "authenticated".into(),
            subject: Some(subject.into()),
        }
    }

    fn items(queue: &mut Queue<u32>, now: Instant) -> Vec<u32> {
        std::iter::from_fn(|| queue.take(now))
            .map(|taken| taken.item)
            .collect()
    }

    #[test]
    fn identities_take_turns_within_their_shares() {
        let now = clock::instant();
        let mut queue = Queue::new(SHARES);
        for item in 1..=4 {
            queue.push(now, who("ann"), item).unwrap();
        }
        assert_eq!(queue.push(now, who("ann"), 5), Err(5), "her line is full");
        queue.push(now, who("bob"), 11).unwrap();
        queue.push(now, who("cat"), 21).unwrap();
        assert_eq!(queue.push(now, who("dan"), 31), Err(31), "all are full");
        assert_eq!(items(&mut queue, now), [1, 11, 21, 2]);
        queue.done(now, &who("ann"), Duration::ZERO);
        assert_eq!(items(&mut queue, now), [3]);
        assert_eq!(queue.waiting(), 1);
        assert_eq!(queue.drain(), [4]);
        for subject in ["ann", "ann", "bob", "cat"] {
            queue.done(now, &who(subject), Duration::ZERO);
        }
        assert!(queue.lines.is_empty() && queue.turns.is_empty());
    }

    #[test]
    fn who_was_slow_has_one_question_at_a_time_and_shares_with_others_that_were() {
        let now = clock::instant();
        let mut queue = Queue::new(SHARES);
        for subject in ["ann", "bob"] {
            queue.push(now, who(subject), 0).unwrap();
            queue.take(now).unwrap();
            queue.done(now, &who(subject), Duration::from_secs(2));
        }
        for (subject, item) in [("ann", 1), ("ann", 2), ("bob", 3), ("cat", 4)] {
            queue.push(now, who(subject), item).unwrap();
        }
        assert_eq!(items(&mut queue, now), [1, 4]);
        queue.done(now, &who("ann"), Duration::from_secs(2));
        assert_eq!(items(&mut queue, now), [3], "it is bob's turn");
        queue.done(now, &who("bob"), Duration::ZERO);
        assert_eq!(items(&mut queue, now), [2]);
        queue.done(now, &who("ann"), Duration::from_secs(2));
        // Forgotten after a while.
        let later = now + Duration::from_secs(61);
        for item in 5..=6 {
            queue.push(later, who("ann"), item).unwrap();
        }
        assert_eq!(items(&mut queue, later), [5, 6]);
    }

    #[test]
    fn those_without_a_subject_have_a_larger_share() {
        let now = clock::instant();
        let mut queue = Queue::new(SHARES);
        let crowd = Who {
            role: "anon".into(),
            subject: None,
        };
        for item in 1..=5 {
            queue.push(now, crowd.clone(), item).unwrap();
        }
        assert_eq!(queue.push(now, crowd.clone(), 6), Err(6));
        assert_eq!(items(&mut queue, now), [1, 2, 3]);
    }

    #[test]
    fn what_waits_too_long_comes_out() {
        let now = clock::instant();
        let later = now + Duration::from_secs(3);
        let mut queue = Queue::new(SHARES);
        queue.push(now, who("ann"), 1).unwrap();
        queue.push(later, who("ann"), 2).unwrap();
        assert_eq!(queue.expire(later, Duration::from_secs(2)), [1]);
        assert_eq!(items(&mut queue, later), [2]);
    }
}
