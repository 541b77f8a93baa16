//! Who is present in one room: what its members have been told, and what they have yet to be told.
//!
//! Presences go in as they change; diffs and the state come out as JSON text (protocol.md §6.3). Who has applied every diff to a
//! state has the state of now, whatever was merged: a diff is never a list of what happened, but the difference between
//! what is and what was told last.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::meta::Meta;
use super::{MemberId, shrink};

/// Changes that follow another within this time are merged, in a room of few members: too short to be noticed.
const WINDOW_MIN: Duration = Duration::from_millis(50);
/// Every diff is sent to every member, so its cost grows with them: this bounds the diffs sent for one room to ten thousand
/// a second while the window grows.
const WINDOW_PER_MEMBER: Duration = Duration::from_micros(100);
/// The longest that anybody waits to be told, reached at 4,500 members.
const WINDOW_MAX: Duration = Duration::from_millis(500);

/// How long changes are gathered in a room of so many members.
pub(super) fn window(members: usize) -> Duration {
    let members = u32::try_from(members).unwrap_or(u32::MAX);
    WINDOW_MIN
        .saturating_add(WINDOW_PER_MEMBER.saturating_mul(members))
        .min(WINDOW_MAX)
}

/// The presence of one room.
#[derive(Debug, Default)]
pub(super) struct Presence {
    /// What those have who applied all diffs.
    told: HashMap<MemberId, Told>,
    /// Who is present as something else than was told, or not at all. In the order in which a diff names them.
    changed: BTreeMap<MemberId, Option<Arc<Meta>>>,
    /// The number of the next that is told.
    number: u64,
    /// `told` as JSON; made when it is asked for.
    state: Option<Arc<str>>,
    /// Until then changes are gathered.
    gathers_until: Option<Instant>,
    /// The end of the window was asked for and has not come.
    awaits_end: bool,
}

/// What was told of one member.
#[derive(Debug)]
struct Told {
    /// Grows in the order of telling, which is that of the metas under one key.
    number: u64,
    meta: Arc<Meta>,
}

/// What is to be done about changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing, or somebody waits for the end of the window already.
    Nothing,
    /// A diff.
    Now,
    /// Look again then.
    At(Instant),
}

/// The JSON text of a diff and the number of metas in it.
#[derive(Debug)]
pub(super) struct Diff {
    pub(super) payload: String,
    pub(super) events: u32,
}

impl Presence {
    /// The member is present as `meta`, or not any more.
    pub(super) fn set(&mut self, member: MemberId, meta: Option<Arc<Meta>>) {
        let told = self.told.get(&member).map(|told| told.meta.phx_ref());
        if told == meta.as_deref().map(Meta::phx_ref) {
            self.changed.remove(&member);
        } else {
            self.changed.insert(member, meta);
        }
    }

    /// What to do after a change. The first in a while is told at once.
    pub(super) fn due(&mut self, now: Instant) -> Due {
        match self.gathers_until {
            _ if self.changed.is_empty() => Due::Nothing,
            Some(until) if now < until && self.awaits_end => Due::Nothing,
            Some(until) if now < until => {
                self.awaits_end = true;
                Due::At(until)
            }
            Some(_) | None => Due::Now,
        }
    }

    /// The end of a window that was asked for has come: what to do?
    pub(super) fn due_at_end(&mut self, now: Instant) -> Due {
        self.awaits_end = false;
        self.due(now)
    }

    /// Takes all changes as told, and gathers further ones until the given time.
    pub(super) fn flush(&mut self, gather_until: Instant) -> Diff {
        self.gathers_until = Some(gather_until);
        self.state = None;
        let mut joins = Vec::new();
        let mut leaves = Vec::new();
        for (member, meta) in std::mem::take(&mut self.changed) {
            let before = match &meta {
                Some(meta) => {
                    let (number, meta) = (self.number, Arc::clone(meta));
                    self.number = number.saturating_add(1);
                    self.told.insert(member, Told { number, meta })
                }
                None => self.told.remove(&member),
            };
            let before = before.map(|told| told.meta);
            if let Some(meta) = meta {
                let replaced = before.clone().filter(|before| before.key() == meta.key());
                joins.push((meta, replaced));
            }
            leaves.extend(before.map(|before| (before, None)));
        }
        shrink(&mut self.told);
        let events = joins.len().saturating_add(leaves.len());
        let mut payload = String::from(r#"{"joins":"#);
        write_by_key(&mut payload, &mut joins);
        payload.push_str(r#","leaves":"#);
        write_by_key(&mut payload, &mut leaves);
        payload.push('}');
        Diff {
            payload,
            events: u32::try_from(events).unwrap_or(u32::MAX),
        }
    }

    /// What was told, without what is gathered; the same text for all who ask before the next diff.
    pub(super) fn state(&mut self) -> Arc<str> {
        if let Some(state) = &self.state {
            return Arc::clone(state);
        }
        let mut told: Vec<&Told> = self.told.values().collect();
        told.sort_unstable_by_key(|told| told.number);
        let mut metas: Vec<(Arc<Meta>, Option<Arc<Meta>>)> = told
            .into_iter()
            .map(|told| (Arc::clone(&told.meta), None))
            .collect();
        let mut json = String::new();
        write_by_key(&mut json, &mut metas);
        let state = Arc::from(json);
        self.state = Some(Arc::clone(&state));
        state
    }
}

/// Writes `{KEY:{"metas":[…]},…}`, keeping the order of the metas under one key. Beside each meta stands the one that it
/// replaces.
fn write_by_key(json: &mut String, metas: &mut [(Arc<Meta>, Option<Arc<Meta>>)]) {
    // Stable: the order within a key stays.
    metas.sort_by(|(a, _), (b, _)| a.key().cmp(b.key()));
    json.push('{');
    let mut key = None;
    for (meta, replaced) in metas.iter() {
        if key == Some(meta.key()) {
            json.push(',');
        } else {
            if key.is_some() {
                json.push_str("]},");
            }
            json.push_str(meta.key());
            json.push_str(r#":{"metas":["#);
            key = Some(meta.key());
        }
        meta.write(json, replaced.as_deref().map(Meta::phx_ref));
    }
    json.push_str(if key.is_some() { "]}}" } else { "}" });
}
