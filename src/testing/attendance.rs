//! Who is present, as a client sees it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

/// A client's view of a room's presence. As the stock clients do, it keeps diffs until it has a state; unlike them, it
/// takes nothing that a server must not say.
#[derive(Clone, Debug, Default)]
pub struct Attendance {
    /// By key, then by `phx_ref`.
    present: BTreeMap<String, BTreeMap<String, Value>>,
    /// Each `phx_ref` that ever joined.
    used: BTreeSet<String>,
    synced: bool,
    early: Vec<Value>,
    /// Diffs so far, since the state.
    diffs: u64,
}

impl Attendance {
    /// Takes a `presence_state`.
    ///
    /// # Panics
    ///
    /// If it is none.
    pub fn state(&mut self, state: &Value) {
        self.present.clear();
        for (key, meta) in metas(state) {
            self.join(&key, meta);
        }
        self.synced = true;
        for diff in std::mem::take(&mut self.early) {
            self.apply(&diff, true);
        }
    }

    /// Takes a `presence_diff`.
    ///
    /// # Panics
    ///
    /// If it is none, if somebody joins who is there, or leaves who is not.
    pub fn diff(&mut self, diff: &Value) {
        if self.synced {
            self.diffs = self.diffs.saturating_add(1);
            self.apply(diff, false);
        } else {
            self.early.push(diff.clone());
        }
    }

    /// Whether a state has come.
    #[must_use]
    pub fn synced(&self) -> bool {
        self.synced
    }

    /// How many diffs came after the state.
    #[must_use]
    pub fn diffs(&self) -> u64 {
        self.diffs
    }

    /// What is tracked, by key, without the references; sorted.
    #[must_use]
    pub fn view(&self) -> BTreeMap<String, Vec<String>> {
        let texts = |metas: &BTreeMap<String, Value>| {
            let mut texts: Vec<String> = metas.values().map(plain).collect();
            texts.sort();
            texts
        };
        self.present
            .iter()
            .map(|(key, metas)| (key.clone(), texts(metas)))
            .collect()
    }

    fn apply(&mut self, diff: &Value, early: bool) {
        let parts: Vec<&String> = diff.as_object().unwrap().keys().collect();
        assert_eq!(parts, ["joins", "leaves"], "{diff}");
        for (key, meta) in metas(&diff["joins"]) {
            // A state that came later may know of it already.
            if early && self.used.contains(meta["phx_ref"].as_str().unwrap()) {
                continue;
            }
            self.join(&key, meta);
        }
        for (key, meta) in metas(&diff["leaves"]) {
            let reference = meta["phx_ref"].as_str().unwrap();
            let known = self
                .present
                .get_mut(&key)
                .and_then(|metas| metas.remove(reference));
            assert!(
                known.is_some() || early,
                "{key} {reference} leaves and was not there: {diff}"
            );
            if self.present.get(&key).is_some_and(BTreeMap::is_empty) {
                self.present.remove(&key);
            }
        }
    }

    fn join(&mut self, key: &str, meta: Value) {
        let reference = meta["phx_ref"].as_str().unwrap().to_owned();
        let metas = self.present.entry(key.to_owned()).or_default();
        let known = metas.insert(reference.clone(), meta);
        assert_eq!(known, None, "{key} {reference} joins twice");
        self.used.insert(reference);
    }
}

/// Key and meta of each presence in `{KEY:{"metas":[…]}}`.
fn metas(presences: &Value) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for (key, entry) in presences.as_object().unwrap() {
        let metas = entry["metas"].as_array().unwrap();
        assert!(!metas.is_empty(), "{key} without metas: {presences}");
        all.extend(metas.iter().map(|meta| (key.clone(), meta.clone())));
    }
    all
}

/// A meta as it was tracked.
fn plain(meta: &Value) -> String {
    let tracked: Map<String, Value> = meta
        .as_object()
        .unwrap()
        .iter()
        .filter(|(name, _)| !name.starts_with("phx_ref"))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    Value::Object(tracked).to_string()
}
