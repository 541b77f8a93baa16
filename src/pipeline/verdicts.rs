//! Verdicts in memory: compiled policies, the tables that they look into, and who they are evaluated for.
//!
//! Pure. A verdict is as of the commit of the change: the database was what the plans were compiled from when it
//! committed, and every table that the plan reads is exact as of it. Whatever is not certain is left to Postgres; nothing
//! is allowed in doubt.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::ControlFlow;

use super::knowledge::Knowledge;
use super::part::Part;
use super::view::View;
use crate::catalog::Catalog;
use crate::change::{Change, ChangeKind, Commit, Datum, Oid, Snapshot, TransactionPart};
use crate::policy::builtin::Session;
use crate::policy::value::{Value, input};
use crate::policy::{Identity, Plan, Tables, Tuple, Verdict, World, compile};
use crate::shadow::{Limits, LoadRequest, LoadResult, Shadow, Sizes, Spec};

/// The setting that every question sets, besides Postgres' own.
const CLAIMS: &str = "request.jwt.claims";
/// Loads of tables under way at once.
const LOADING_MAX: usize = 64;
/// Preflights that one identity remembers.
const PREFLIGHTS_MAX: usize = 256;

/// What was decided about a row without asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// The identity saw the row when it committed.
    Allowed,
    /// It did not.
    Hidden,
    /// A SELECT would have raised this SQLSTATE.
    Raised(Box<str>),
}

/// Verdicts of one source, by result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// The identity sees the row.
    pub allowed: u64,
    /// It does not.
    pub denied: u64,
    /// The policy raised.
    pub raised: u64,
    /// No verdict: left to Postgres, or superseded when Postgres was asked.
    pub undecided: u64,
}

/// What an identity's verdicts have in common.
#[derive(Debug, Default)]
pub(super) struct Sitting {
    session: Option<Session>,
    /// Outcomes that hold for every row and moment, by plan.
    preflights: HashMap<u64, Option<Verdict>>,
}

impl Sitting {
    /// The session that a question would have: claims, and the time of the commit, since a verdict is as of it.
    fn at(&mut self, identity: &Identity, commit: &Commit) {
        let session = self.session.get_or_insert_with(|| Session {
            now: 0,
            settings: BTreeMap::from([(CLAIMS.into(), identity.claims().into())]),
        });
        session.now = commit.time.0;
    }
}

/// A plan that can be used.
#[derive(Debug)]
struct Compiled {
    /// Never used twice.
    number: u64,
    plan: Plan,
    /// The tables that it looks into.
    tables: Vec<Oid>,
}

/// The reason where Postgres must be asked.
type Planned = Result<Compiled, Box<str>>;

/// Plans, shadows, and what is known of the database.
#[derive(Debug)]
pub(super) struct Verdicts {
    enabled: bool,
    knowledge: Option<Box<Knowledge>>,
    /// Comes with the next catalog.
    next: Option<Box<Knowledge>>,
    /// What comes next was read before positions got a new meaning.
    next_is_void: bool,
    /// By table and role.
    plans: HashMap<Oid, HashMap<Box<str>, Planned>>,
    next_number: u64,
    shadow: Shadow,
    loads: VecDeque<LoadRequest>,
    loading: usize,
    /// The part that was judged last, and its rows as the plans read them, by change and plan.
    routed: u64,
    rows: HashMap<(u32, u64), Option<Tuple>>,
    judged: Judged,
}

impl Verdicts {
    pub(super) fn new(enabled: bool, shadow_bytes_max: usize) -> Self {
        Self {
            enabled,
            knowledge: None,
            next: None,
            next_is_void: false,
            plans: HashMap::new(),
            next_number: 1,
            shadow: Shadow::new(Limits {
                bytes_max: shadow_bytes_max,
                retained_bytes_max: shadow_bytes_max / 4,
            }),
            loads: VecDeque::new(),
            loading: 0,
            routed: 0,
            rows: HashMap::new(),
            judged: Judged::default(),
        }
    }

    /// Verdicts so far.
    pub(super) const fn judged(&self) -> Judged {
        self.judged
    }

    /// The tables in memory.
    pub(super) fn sizes(&self) -> Sizes {
        self.shadow.sizes()
    }

    /// Positions have a new meaning. Returns whether the database must be read again.
    pub(super) fn restart(&mut self, is_loading: bool) -> bool {
        self.forget();
        self.next = None;
        self.next_is_void = is_loading;
        self.shadow.restart();
        self.enabled
    }

    /// A part is released, or concerns nobody: before anything else sees it.
    pub(super) fn apply(&mut self, part: &TransactionPart) {
        if self.enabled {
            self.shadow.apply(part);
        }
    }

    /// A transaction was too large to be read.
    pub(super) fn skipped(&mut self, commit: &Commit, relations: &[Oid]) {
        if self.enabled {
            self.shadow.skipped(commit, relations);
        }
    }

    /// A snapshot was taken just now.
    pub(super) fn seen(&mut self, snapshot: &Snapshot) {
        if self.enabled {
            self.shadow.seen(snapshot);
        }
    }

    /// What was read together with the catalog that comes next.
    pub(super) fn expect(&mut self, knowledge: Option<Box<Knowledge>>) {
        self.next = knowledge.filter(|_| self.enabled);
    }

    fn forget(&mut self) {
        self.knowledge = None;
        self.plans.clear();
        self.rows.clear();
    }

    /// A catalog came. Returns whether all plans are to be made anew.
    pub(super) fn renew(&mut self, catalog: &Catalog) -> bool {
        let next = self.next.take();
        let is_void = std::mem::take(&mut self.next_is_void);
        let is_of = |knowledge: &Option<Box<Knowledge>>| matches!(knowledge, Some(known) if known.fingerprint == catalog.fingerprint);
        if is_of(&self.knowledge) || !self.enabled {
            return false;
        }
        self.forget();
        self.shadow.invalidate_all("the catalog has changed");
        self.knowledge =
            next.filter(|knowledge| !is_void && knowledge.fingerprint == catalog.fingerprint);
        self.knowledge.is_some()
    }

    /// Whether nothing can be compiled although it should be.
    pub(super) const fn lacks_knowledge(&self) -> bool {
        self.enabled && self.knowledge.is_none()
    }

    /// Compiles what is not compiled yet of these tables for these roles, and wants the tables that it looks into.
    pub(super) fn plan<'a>(
        &mut self,
        catalog: &Catalog,
        wanted: impl IntoIterator<Item = (Oid, &'a str)>,
    ) {
        let Some(knowledge) = &self.knowledge else {
            return;
        };
        let mut looks_further = false;
        for (oid, role) in wanted {
            let applies = catalog
                .access(oid, role)
                .is_some_and(|(_, access)| access.policies_apply);
            let known = self.plans.get(&oid).is_some_and(|by| by.contains_key(role));
            if !applies || known {
                continue;
            }
            let number = self.next_number;
            self.next_number = number.saturating_add(1);
            let planned = compiled(knowledge, oid, role, number);
            match &planned {
                Ok(compiled) => looks_further |= !compiled.tables.is_empty(),
                Err(reason) => {
                    tracing::info!(table = oid, role, %reason, "verdicts on this table are asked of Postgres");
                }
            }
            self.plans
                .entry(oid)
                .or_default()
                .insert(role.into(), planned);
        }
        if looks_further {
            let plans = self.plans.values().flat_map(HashMap::values);
            let reads = plans.filter_map(|planned| Some(&planned.as_ref().ok()?.plan.reads));
            self.shadow.want(Spec::all(&knowledge.schema, reads));
        }
    }

    /// A table to be loaded now.
    pub(super) fn next_load(&mut self) -> Option<LoadRequest> {
        self.knowledge.as_ref()?;
        self.loads.extend(self.shadow.loads());
        if self.loading >= LOADING_MAX {
            return None;
        }
        let request = self.loads.pop_front()?;
        self.loading = self.loading.saturating_add(1);
        Some(request)
    }

    /// Takes what a load has come to.
    pub(super) fn loaded(&mut self, result: LoadResult) {
        self.loading = self.loading.saturating_sub(1);
        self.shadow.loaded(result);
    }

    /// Whether verdicts of this table for the role, if there is a plan, are the same at any time.
    pub(super) fn is_timeless(&self, table: Oid, role: &str) -> bool {
        let planned = self.plans.get(&table).and_then(|by| by.get(role));
        planned.is_some_and(|planned| {
            planned
                .as_ref()
                .is_ok_and(|compiled| !compiled.plan.reads.time)
        })
    }

    /// Whether rows of the part may be judged here for the role.
    pub(super) fn may_judge(&self, part: &Part, role: &str) -> bool {
        self.holds_for(part)
            && part.changes.iter().any(|change| {
                let planned = self.plans.get(&change.relation.oid);
                planned
                    .and_then(|by| by.get(role))
                    .is_some_and(Result::is_ok)
            })
    }

    /// Whether the database was, at this commit, what is known of it.
    fn holds_for(&self, part: &Part) -> bool {
        part.is_whole
            && self.knowledge.as_ref().is_some_and(|knowledge| {
                part.commit.lsn >= knowledge.from
                    && part.catalog.fingerprint == knowledge.fingerprint
            })
    }

    /// Whether the identity saw the row of change `index` right after its commit; `None`: Postgres must be asked.
    /// `routed` is the number under which the part is being routed.
    pub(super) fn judge(
        &mut self,
        sitting: &mut Sitting,
        identity: &Identity,
        part: &Part,
        routed: u64,
        index: u32,
    ) -> Option<Judgement> {
        if !self.holds_for(part) {
            return None;
        }
        let (change, view) = part.change(index)?;
        let planned = self.plans.get(&view.table.oid)?.get(identity.role())?;
        let compiled = planned.as_ref().ok()?;
        let knowledge = self.knowledge.as_ref()?;
        if std::mem::replace(&mut self.routed, routed) != routed {
            self.rows.clear();
        }
        let row = self
            .rows
            .entry((index, compiled.number))
            .or_insert_with(|| row(knowledge, compiled, change, view));
        let verdict = row
            .as_ref()
            .filter(|_| self.shadow.is_trusted(&compiled.tables, part.commit.lsn))
            .map(|row| {
                sitting.at(identity, &part.commit);
                evaluate(compiled, knowledge, &self.shadow, sitting, row)
            });
        let (count, judgement) = match verdict {
            Some(Verdict::Allow) => (&mut self.judged.allowed, Some(Judgement::Allowed)),
            Some(Verdict::Deny) => (&mut self.judged.denied, Some(Judgement::Hidden)),
            Some(Verdict::Raised(error)) => (
                &mut self.judged.raised,
                Some(Judgement::Raised(error.sqlstate)),
            ),
            Some(Verdict::Undecided(_)) | None => (&mut self.judged.undecided, None),
        };
        *count = count.saturating_add(1);
        judgement
    }
}

/// Compiles a table's policies for a role; the reason where that is not possible, or not certain to be good for a session
/// that asks.
fn compiled(
    knowledge: &Knowledge,
    table: Oid,
    role: &str,
    number: u64,
) -> Result<Compiled, Box<str>> {
    let schema = &knowledge.schema;
    if knowledge.searches_user && schema.namespaces.contains_key(role) {
        return Err("a schema of the role's name is searched".into());
    }
    let role = schema.role(role).ok_or("no such role")?;
    let plan = compile(schema, table, role).map_err(|refusal| refusal.reason)?;
    if let Some(Err(error)) = plan.constant() {
        return Err(format!("the policies always raise: {error}").into());
    }
    let is_known = |name: &str| name == CLAIMS || knowledge.unset.contains(name);
    if let Some(name) = plan.reads.settings.iter().find(|name| !is_known(name)) {
        return Err(format!("the setting {name}").into());
    }
    Ok(Compiled {
        number,
        tables: plan.reads.tables.keys().copied().collect(),
        plan,
    })
}

/// The row as the plan reads it: NULL in the columns that it does not; `None` if the relation of the stream is not the
/// table that was compiled for, or a value is missing or not understood.
fn row(knowledge: &Knowledge, compiled: &Compiled, change: &Change, view: &View) -> Option<Tuple> {
    let new = match &change.kind {
        ChangeKind::Insert { new } | ChangeKind::Update { new, .. } => new,
        ChangeKind::Delete { .. } | ChangeKind::Truncate => return None,
    };
    view.key_of(new)?;
    let table = knowledge.schema.tables.get(&view.table.oid)?;
    let relation = &change.relation;
    let places: Vec<usize> = relation
        .columns
        .iter()
        .map(|column| {
            table.columns.iter().position(|known| {
                known.name == column.name
                    && known.type_oid == column.type_oid
                    && known.typmod == column.type_modifier
            })
        })
        .collect::<Option<_>>()?;
    let mut values = vec![Value::Null; table.columns.len()];
    let data: Vec<Datum<'_>> = new.iter().collect();
    for index in &compiled.plan.reads.columns {
        let column = table
            .columns
            .get(*index)
            .filter(|column| !column.generated)?;
        let place = places.iter().position(|place| place == index)?;
        let value = match data.get(place)? {
            Datum::Null => Value::Null,
            Datum::Unchanged => return None,
            Datum::Text(text) => {
                let text = std::str::from_utf8(text).ok()?;
                input(&knowledge.schema.types, column.type_oid, -1, text).ok()?
            }
        };
        *values.get_mut(*index)? = value;
    }
    Some(values.into())
}

fn evaluate(
    compiled: &Compiled,
    knowledge: &Knowledge,
    shadow: &Shadow,
    sitting: &mut Sitting,
    row: &Tuple,
) -> Verdict {
    let Some(session) = &sitting.session else {
        return Verdict::Undecided("no session".into());
    };
    let watched = Watched {
        tables: shadow,
        read: Cell::new(false),
    };
    let world = World {
        tables: &watched,
        session,
        types: &knowledge.schema.types,
    };
    let known = sitting.preflights.get(&compiled.number).cloned();
    let raised = known.unwrap_or_else(|| {
        let raised = compiled.plan.preflight(world).err().map(Verdict::of_error);
        // What read nothing but the session will read nothing else the next time.
        if !watched.read.get() && !compiled.plan.reads.time {
            if sitting.preflights.len() >= PREFLIGHTS_MAX {
                sitting.preflights.clear();
            }
            sitting.preflights.insert(compiled.number, raised.clone());
        }
        raised
    });
    raised.unwrap_or_else(|| compiled.plan.judge(world, row))
}

/// Notes whether tables were looked into.
struct Watched<'a> {
    tables: &'a Shadow,
    read: Cell<bool>,
}

impl Tables for Watched<'_> {
    fn scan(
        &self,
        table: Oid,
        keys: &[(usize, Value)],
        visit: &mut dyn FnMut(&Tuple) -> ControlFlow<()>,
    ) {
        self.read.set(true);
        self.tables.scan(table, keys, visit);
    }
}
