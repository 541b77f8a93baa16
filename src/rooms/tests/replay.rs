//! Any interleaving: what clients make of a state and diffs is what a simple model says.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// Members take turns in being of the public and the private room.
const MEMBERS: u64 = 6;
const KEYS: [&str; 3] = ["ann", "bob", "ä\"\\"];
const PAYLOADS: [&str; 4] = [
    "{}",
    r#"{"x":1}"#,
    r#"{ "x" : {"phx_ref":[]} }"#,
    r#"{"phx_ref":"mine","y":null}"#,
];

#[derive(Clone, Debug)]
enum Step {
    Enter(u64, Receives),
    Leave(u64),
    Track(u64, usize, usize),
    Untrack(u64),
    State(u64),
    /// Time passes; the timer may be late.
    Pass(u64, bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let member = 0..MEMBERS;
    let receives = prop_oneof![3 => Just(ALL), 1 => Just(BROADCASTS), 1 => Just(PRESENCE)];
    let step = prop_oneof![
        3 => (member.clone(), receives).prop_map(|(member, receives)| Step::Enter(member, receives)),
        1 => member.clone().prop_map(Step::Leave),
        5 => (member.clone(), 0..KEYS.len(), 0..PAYLOADS.len())
            .prop_map(|(member, key, payload)| Step::Track(member, key, payload)),
        2 => member.clone().prop_map(Step::Untrack),
        3 => member.prop_map(Step::State),
        3 => (0..80_u64, any::<bool>()).prop_map(|(time, timer)| Step::Pass(time, timer)),
    ];
    proptest::collection::vec(step, 1..80)
}

/// What is tracked: a version that no other has, key and payload.
type Presence = (u32, &'static str, &'static str);

/// One room.
#[derive(Default)]
struct Model {
    members: BTreeMap<u64, Receives>,
    is: BTreeMap<u64, Presence>,
    told: BTreeMap<u64, Presence>,
    gathers_until: Option<Instant>,
    /// Metas of each diff since the last look.
    diffs: Vec<usize>,
}

impl Model {
    fn changed(&mut self, now: Instant) {
        if self.members.is_empty() {
            *self = Self::default();
        }
        let is_quiet = self.gathers_until.is_none_or(|until| until <= now);
        if self.is == self.told || !is_quiet {
            return;
        }
        let differs = |a: &BTreeMap<u64, Presence>, b: &BTreeMap<u64, Presence>| {
            a.iter()
                .filter(|(id, meta)| b.get(id) != Some(meta))
                .count()
        };
        let metas = differs(&self.is, &self.told) + differs(&self.told, &self.is);
        self.diffs.push(metas);
        self.told = self.is.clone();
        self.gathers_until = Some(now + window(self.members.len()));
    }

    fn view(&self) -> Vec<(String, Value)> {
        let mut view: Vec<(String, Value)> = self
            .told
            .values()
            .map(|(_, key, payload)| {
                let mut payload: Value = serde_json::from_str(payload).unwrap();
                payload.as_object_mut().unwrap().remove("phx_ref");
                ((*key).to_owned(), payload)
            })
            .collect();
        view.sort_by_key(|meta| format!("{meta:?}"));
        view
    }
}

/// Key → reference → payload.
type Metas = BTreeMap<String, BTreeMap<String, Value>>;

/// Metas as they are on the wire, and which of them replace which.
fn parse(presences: &Value) -> (Metas, Vec<String>) {
    let mut replaced = Vec::new();
    let mut metas = Metas::new();
    for (key, presence) in presences.as_object().unwrap() {
        for meta in presence["metas"].as_array().unwrap() {
            let mut payload = meta.clone();
            let members = payload.as_object_mut().unwrap();
            let phx_ref = members.remove("phx_ref").unwrap();
            let previous = members.remove("phx_ref_prev");
            replaced.extend(previous.map(|previous| previous.as_str().unwrap().to_owned()));
            let of_key = metas.entry(key.clone()).or_default();
            let before = of_key.insert(phx_ref.as_str().unwrap().to_owned(), payload);
            assert_eq!(before, None, "one reference twice");
        }
    }
    (metas, replaced)
}

/// A client as protocol.md §6.3 describes it.
#[derive(Clone, Default)]
struct Client {
    state: Option<Metas>,
    /// Diffs from before the first state.
    waiting: Vec<(Metas, Metas)>,
    /// References that left.
    gone: BTreeSet<String>,
}

impl Client {
    fn hear(&mut self, notice: &Notice) {
        match notice {
            Notice::PresenceState(state) => {
                let (mut metas, replaced) = parse(&serde_json::from_str(&state.0).unwrap());
                assert!(replaced.is_empty());
                if let Some(known) = &self.state {
                    assert_eq!(*known, metas, "the state is what the diffs have said");
                }
                let told = metas.clone();
                for (joins, leaves) in self.waiting.drain(..) {
                    apply(&mut metas, joins, leaves);
                }
                assert_eq!(metas, told, "earlier diffs are contained in the state");
                self.state = Some(metas);
            }
            Notice::PresenceDiff(diff) => {
                let diff_value: Value = serde_json::from_str(&payload(diff)).unwrap();
                let (joins, replaced) = parse(&diff_value["joins"]);
                let (leaves, none) = parse(&diff_value["leaves"]);
                assert!(none.is_empty());
                self.check_diff(&joins, &leaves, &replaced);
                match &mut self.state {
                    Some(state) => apply(state, joins, leaves),
                    None => self.waiting.push((joins, leaves)),
                }
            }
            other => panic!("{other:?}"),
        }
    }

    /// No false join, no false leave.
    fn check_diff(&mut self, joins: &Metas, leaves: &Metas, replaced: &[String]) {
        let references = |metas: &Metas| -> BTreeSet<(String, String)> {
            let of_key = |(key, metas): (&String, &BTreeMap<String, Value>)| {
                let key = key.clone();
                let pairs = metas
                    .keys()
                    .map(move |phx_ref| (key.clone(), phx_ref.clone()));
                pairs.collect::<Vec<_>>()
            };
            metas.iter().flat_map(of_key).collect()
        };
        let (joined, left) = (references(joins), references(leaves));
        assert!(joined.is_disjoint(&left));
        for (_, phx_ref) in &joined {
            assert!(!self.gone.contains(phx_ref), "a reference was used again");
        }
        if let Some(state) = &self.state {
            let known = references(state);
            assert!(joined.is_disjoint(&known), "a join of who is there");
            assert!(left.is_subset(&known), "a leave of who is not there");
        }
        for previous in replaced {
            assert!(
                left.iter()
                    .any(|(key, phx_ref)| { phx_ref == previous && joins.contains_key(key) })
            );
        }
        self.gone
            .extend(left.into_iter().map(|(_, phx_ref)| phx_ref));
    }
}

/// Joins first, then leaves by reference.
fn apply(state: &mut Metas, joins: Metas, leaves: Metas) {
    for (key, metas) in joins {
        state.entry(key).or_default().extend(metas);
    }
    for (key, metas) in leaves {
        let Some(present) = state.get_mut(&key) else {
            continue;
        };
        present.retain(|phx_ref, _| !metas.contains_key(phx_ref));
        if present.is_empty() {
            state.remove(&key);
        }
    }
}

struct Run {
    world: World,
    rooms: [Arc<Room>; 2],
    models: [Model; 2],
    clients: Vec<Client>,
    version: u32,
}

impl Run {
    fn new() -> Self {
        Self {
            world: World::new(),
            rooms: [room("a", false), room("a", true)],
            models: Default::default(),
            clients: vec![Client::default(); usize::try_from(MEMBERS).unwrap()],
            version: 0,
        }
    }

    fn place(&mut self, member: u64) -> (Arc<Room>, &mut Model) {
        let place = usize::try_from(member % 2).unwrap();
        (Arc::clone(&self.rooms[place]), &mut self.models[place])
    }

    fn forget(&mut self, member: u64) {
        self.clients[usize::try_from(member).unwrap()] = Client::default();
    }

    fn step(&mut self, step: &Step) {
        let now = self.world.now;
        match *step {
            Step::Enter(member, receives) => {
                let (room, model) = self.place(member);
                let before = model.members.insert(member, receives);
                if !before.is_some_and(|before| before.presence) || !receives.presence {
                    // It has missed something, or will: as after a new join.
                    self.forget(member);
                }
                self.world
                    .handle(member, &room, RoomRequest::Enter(Entry::open(receives)));
            }
            Step::Leave(member) => {
                let (room, model) = self.place(member);
                model.members.remove(&member);
                let was_present = model.is.remove(&member).is_some();
                if was_present || model.members.is_empty() {
                    model.changed(now);
                }
                self.forget(member);
                self.world.handle(member, &room, RoomRequest::Leave);
            }
            Step::Track(member, key, payload) => {
                self.version += 1;
                let version = self.version;
                let (room, model) = self.place(member);
                let (key, payload) = (KEYS[key], PAYLOADS[payload]);
                let same = |(_, k, p): &Presence| (*k, *p) == (key, payload);
                let is_same = model.is.get(&member).is_some_and(same);
                if model.members.contains_key(&member) && !is_same {
                    model.is.insert(member, (version, key, payload));
                    model.changed(now);
                }
                self.world.track(member, &room, key, payload);
            }
            Step::Untrack(member) => {
                let (room, model) = self.place(member);
                if model.is.remove(&member).is_some() {
                    model.changed(now);
                }
                self.world.handle(member, &room, RoomRequest::Untrack);
            }
            Step::State(member) => {
                let (room, _) = self.place(member);
                self.world.handle(member, &room, RoomRequest::State);
            }
            Step::Pass(time, timer) => {
                self.world.now += Duration::from_millis(time);
                if timer {
                    self.flush();
                }
            }
        }
    }

    fn flush(&mut self) {
        let now = self.world.now;
        for model in &mut self.models {
            model.changed(now);
        }
        while self
            .world
            .rooms
            .flush_due(now)
            .is_some_and(|next| next <= now)
        {}
    }

    /// Everybody takes what waits and compares.
    fn check(&mut self, step: Option<&Step>) {
        let diffs = self
            .models
            .each_mut()
            .map(|model| std::mem::take(&mut model.diffs));
        let mut views: [Option<Metas>; 2] = [None, None];
        for member in 0..MEMBERS {
            let place = usize::try_from(member % 2).unwrap();
            let client = &mut self.clients[usize::try_from(member).unwrap()];
            let receives = self.models[place].members.get(&member);
            let follows = receives.is_some_and(|receives| receives.presence);
            if !self.world.outboxes.contains_key(&member) {
                continue;
            }
            let mut heard = Vec::new();
            let mut states = 0;
            for notice in self.world.take(member) {
                match &notice {
                    Notice::PresenceDiff(diff) => {
                        heard.push(usize::try_from(diff.events()).unwrap())
                    }
                    _ => states += 1,
                }
                client.hear(&notice);
            }
            let asked = matches!(step, Some(Step::State(asking)) if *asking == member);
            assert_eq!(states, usize::from(asked && follows));
            if !follows {
                assert!(heard.is_empty());
                continue;
            }
            assert_eq!(heard, diffs[place], "as many diffs, with as many metas");
            let Some(state) = &client.state else {
                continue;
            };
            let mut view: Vec<(String, Value)> = state
                .iter()
                .flat_map(|(key, metas)| metas.values().map(|meta| (key.clone(), meta.clone())))
                .collect();
            view.sort_by_key(|meta| format!("{meta:?}"));
            assert_eq!(view, self.models[place].view());
            // Also the references.
            assert_eq!(views[place].get_or_insert_with(|| state.clone()), state);
        }
        let sum = |count: fn(&Model) -> usize| self.models.iter().map(count).sum::<usize>();
        let sizes = Sizes {
            rooms: sum(|model| usize::from(!model.members.is_empty())),
            members: sum(|model| model.members.len()),
            tracked: sum(|model| model.is.len()),
        };
        assert_eq!(self.world.rooms.sizes(), sizes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn states_and_diffs_are_exact_after_any_interleaving(steps in steps()) {
        let mut run = Run::new();
        for step in &steps {
            run.step(step);
            run.check(Some(step));
        }
        run.world.now += Duration::from_secs(1);
        run.flush();
        run.check(None);
        for model in &run.models {
            prop_assert_eq!(&model.told, &model.is);
        }
    }
}
