//! Verdicts in memory: compiled policies, the tables that they look into, and who they are evaluated for.
//!
//! Pure. A verdict is as of the commit of the change: the database was what the plans were compiled from when it
//! committed, and every table that the plan reads is exact as of it. Whatever is not certain is left to Postgres; nothing
//! is allowed in doubt.

mod present;
mod since;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ops::ControlFlow;

use serde::Serialize;

use super::addressees::Group;
use super::knowledge::Knowledge;
use super::lane::{LaneId, Lanes};
use super::part::Part;
use super::permissions::{Permissions, Permitted, Reader};
use super::state::{PlanState, PolicyState, ShadowState};
use super::view::View;
use crate::catalog::Catalog;
use crate::change::{
    Change, ChangeKind, Commit, Datum, Lsn, Oid, OldKind, ReplicaIdentity, Snapshot,
    TransactionPart,
};
use crate::policy::builtin::Session;
use crate::policy::schema::Schema;
use crate::policy::value::{Value, input};
use crate::policy::{Identity, KnownClaims, Plan, Tables, Tuple, Verdict, World, compile};
use crate::shadow::{Limits, LoadRequest, LoadResult, Shadow, Sizes, Spec, State, Status};
use since::Since;

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
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
    /// What the claims alone decide, by plan.
    known: HashMap<u64, KnownClaims>,
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
    /// Old rows may be judged by it: the stream may carry all that it reads of them.
    looks_back: bool,
}

/// As of when a row is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum When {
    /// Right before the transaction.
    Before,
    /// Right after it.
    After,
}

/// The reason where Postgres must be asked.
type Planned = Result<Compiled, Box<str>>;

/// Plans, shadows, and what is known of the database.
#[derive(Debug)]
pub(super) struct Verdicts {
    enabled: bool,
    knowledge: Option<Box<Knowledge>>,
    /// Of what was known last.
    since: Option<Since>,
    /// Comes with the next catalog.
    next: Option<Box<Knowledge>>,
    /// What comes next was read before positions got a new meaning.
    next_is_void: bool,
    /// By table and role.
    plans: HashMap<Oid, HashMap<Box<str>, Planned>>,
    next_number: u64,
    /// The tables that are wanted are to be found anew.
    plans_changed: bool,
    /// Plans that nobody needed when they were last looked at.
    idle: HashSet<(Oid, Box<str>)>,
    permissions: Permissions,
    shadow: Shadow,
    loads: VecDeque<LoadRequest>,
    loading: usize,
    /// The part that was judged last, and its rows as the plans read them, by change and plan.
    routed: u64,
    rows: HashMap<(u32, u64, When), Option<Tuple>>,
    judged: Judged,
    passed_over: Judged,
}

impl Verdicts {
    pub(super) fn new(enabled: bool, shadow_bytes_max: usize) -> Self {
        Self {
            enabled,
            knowledge: None,
            since: None,
            next: None,
            next_is_void: false,
            plans: HashMap::new(),
            next_number: 1,
            plans_changed: false,
            idle: HashSet::new(),
            permissions: Permissions::default(),
            shadow: Shadow::new(Limits {
                bytes_max: shadow_bytes_max,
                retained_bytes_max: shadow_bytes_max / 4,
                undo_bytes_max: shadow_bytes_max / 16,
            }),
            loads: VecDeque::new(),
            loading: 0,
            routed: 0,
            rows: HashMap::new(),
            judged: Judged::default(),
            passed_over: Judged::default(),
        }
    }

    /// Verdicts so far.
    pub(super) const fn judged(&self) -> Judged {
        self.judged
    }

    /// Plans and tables, for operators.
    pub(super) fn state(&self) -> PolicyState {
        let name = |oid: &Oid| -> Box<str> {
            let known = self.knowledge.as_ref();
            match known.and_then(|known| known.schema.tables.get(oid)) {
                Some(table) => format!("{}.{}", table.schema, table.name).into(),
                None => oid.to_string().into(),
            }
        };
        let mut plans: Vec<PlanState> = (self.plans.iter())
            .flat_map(|(oid, by)| by.iter().map(move |(role, planned)| (oid, role, planned)))
            .map(|(oid, role, planned)| PlanState {
                table: name(oid),
                role: role.clone(),
                compiled: planned.is_ok(),
                reason: planned.as_ref().err().cloned(),
                form: (planned.as_ref().ok()).map(|compiled| compiled.plan.form().into()),
                reads: planned.as_ref().map_or_else(
                    |_refused| Vec::new(),
                    |compiled| compiled.tables.iter().map(name).collect(),
                ),
            })
            .collect();
        plans.sort_by(|a, b| (&a.table, &a.role).cmp(&(&b.table, &b.role)));
        PolicyState {
            compiles: self.enabled,
            knows_schema: self.knowledge.is_some(),
            shadow_bytes: self.shadow.bytes(),
            shadow_bytes_max: self.shadow.limits().bytes_max,
            plans,
            shadows: self.shadow.status().into_iter().map(shown).collect(),
            verdicts: Vec::new(),
        }
    }

    /// Identities that changes left out by their audience.
    pub(super) const fn passed_over(&self) -> Judged {
        self.passed_over
    }

    /// A change left these out.
    pub(super) fn pass_over(&mut self, more: Judged) {
        self.passed_over.add(more);
    }

    /// The tables in memory.
    pub(super) fn sizes(&self) -> Sizes {
        self.shadow.sizes()
    }

    /// Positions have a new meaning. Returns whether the database must be read again.
    pub(super) fn restart(&mut self, is_loading: bool) -> bool {
        self.forget();
        self.since = None;
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
        self.permissions.forget_plans();
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
        self.knowledge =
            next.filter(|knowledge| !is_void && knowledge.fingerprint == catalog.fingerprint);
        // Without knowledge the tables go on with the stream. Nothing is judged by them until it has come, and told which
        // of them were altered.
        let Some(knowledge) = &self.knowledge else {
            return false;
        };
        self.since = Some(Since::renewed(self.since.take(), knowledge, catalog));
        self.permissions = Permissions::of(knowledge, catalog);
        self.shadow.describe(&knowledge.prints);
        self.plans_changed = true;
        true
    }

    /// Whether a change of this table may decide who may read a private topic, or send to it.
    pub(super) fn decides_permissions(&self, oid: Oid) -> bool {
        let table = self.shadow.root_of(oid);
        self.permissions.reads_table(table) || self.permissions.decides_sending(table)
    }

    /// Whether there is any such table.
    pub(super) fn knows_permissions(&self) -> bool {
        self.permissions.reads_tables()
    }

    /// Whether this part, applied last, may have changed who may read a private topic.
    pub(super) fn may_change_permissions(&self, part: &TransactionPart) -> bool {
        let mut known = None;
        part.changes.iter().any(|change| {
            let oid = change.relation.oid;
            known.replace(oid) != Some(oid)
                && self.permissions.reads_table(self.shadow.root_of(oid))
                && (self.permissions.mentions_table(self.shadow.root_of(oid))
                    || self.shadow.may_be_altered(oid, part.commit.lsn))
        })
    }

    /// The same of who may send to one.
    pub(super) fn may_change_sending(&self, part: &TransactionPart) -> bool {
        let mut known = None;
        part.changes.iter().any(|change| {
            let oid = change.relation.oid;
            known.replace(oid) != Some(oid)
                && self.permissions.decides_sending(self.shadow.root_of(oid))
        })
    }

    /// Whether somebody may read a private topic, as of what was applied last; `None`: Postgres must be asked.
    pub(super) fn permit(&self, reader: &Reader) -> Option<Permitted> {
        let knowledge = self.knowledge.as_ref()?;
        let is_current = |tables: &[Oid]| self.shadow.is_current(tables);
        self.permissions
            .judge(knowledge, &self.shadow, is_current, reader)
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
            let planned = compiled(knowledge, oid, role, number).map(|compiled| Compiled {
                looks_back: knows_old_rows(catalog, &knowledge.schema, oid, &compiled.plan),
                ..compiled
            });
            match &planned {
                Ok(compiled) => self.plans_changed |= !compiled.tables.is_empty(),
                Err(reason) => {
                    tracing::info!(table = oid, role, %reason, "verdicts on this table are asked of Postgres");
                }
            }
            self.plans
                .entry(oid)
                .or_default()
                .insert(role.into(), planned);
        }
        self.want();
    }

    /// Drops what nobody needs: plans without subscribers since the last call, and the tables that only they looked into.
    /// To be called from time to time.
    pub(super) fn sweep(&mut self, needs: impl Fn(Oid, &str) -> bool) {
        let mut idle = HashSet::new();
        for (oid, by) in &mut self.plans {
            by.retain(|role, _| {
                if needs(*oid, role) {
                    return true;
                }
                let stays = !self.idle.contains(&(*oid, role.clone()));
                if stays {
                    idle.insert((*oid, role.clone()));
                } else {
                    self.plans_changed = true;
                }
                stays
            });
        }
        self.plans.retain(|_, by| !by.is_empty());
        self.idle = idle;
        self.want();
        self.shadow.reconsider();
    }

    fn want(&mut self) {
        if let Some(knowledge) = &self.knowledge
            && std::mem::take(&mut self.plans_changed)
        {
            let plans = || {
                let by_role = self.plans.values().flat_map(HashMap::values);
                by_role.filter_map(|planned| planned.as_ref().ok())
            };
            let looks_back =
                |compiled: &Compiled| compiled.looks_back && !compiled.tables.is_empty();
            self.shadow.remember(plans().any(looks_back));
            let reads = plans().map(|compiled| &compiled.plan.reads);
            let reads = reads.chain(self.permissions.reads());
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
            && (self.since.as_ref()).is_some_and(|since| since.reaches(part.commit.lsn))
            && (self.knowledge.as_ref())
                .is_some_and(|knowledge| part.catalog.fingerprint == knowledge.fingerprint)
    }

    /// The same of all that a plan for this table goes by.
    fn holds(&self, compiled: &Compiled, table: Oid, commit: Lsn) -> bool {
        let reaches = |since: &Since, table| since.reaches_for(table, commit);
        let mut tables = compiled.tables.iter().chain([&table]);
        (self.since.as_ref()).is_some_and(|since| tables.all(|table| reaches(since, *table)))
    }

    /// The lanes of a table and role that change `index` may concern: from all others the row is hidden, and was.
    /// `None`: any of them.
    pub(super) fn audience(
        &mut self,
        part: &Part,
        routed: u64,
        index: u32,
        role: &str,
        group: &mut Group,
        lanes: &mut Lanes,
    ) -> Option<BTreeSet<LaneId>> {
        if !self.holds_for(part) {
            return None;
        }
        let (change, view) = part.change(index)?;
        let compiled = self.plans.get(&view.table.oid)?.get(role)?.as_ref().ok()?;
        if !compiled.plan.has_audience() || !self.holds(compiled, view.table.oid, part.commit.lsn) {
            return None;
        }
        let knowledge = self.knowledge.as_ref()?;
        place(group, compiled, knowledge, &self.shadow, lanes, part);
        if std::mem::replace(&mut self.routed, routed) != routed {
            self.rows.clear();
        }
        let session = Session {
            now: part.commit.time.0,
            settings: BTreeMap::new(),
        };
        let world = |tables| World {
            tables,
            session: &session,
            types: &knowledge.schema.types,
        };
        let (is_after, is_before) = match &change.kind {
            ChangeKind::Insert { .. } => (true, false),
            ChangeKind::Update { .. } => (true, true),
            ChangeKind::Delete { .. } => (false, true),
            ChangeKind::Truncate => return None,
        };
        let mut found = BTreeSet::new();
        if is_after {
            let row = self
                .rows
                .entry((index, compiled.number, When::After))
                .or_insert_with(|| row(knowledge, compiled, change, view))
                .as_ref()?;
            if !self.shadow.is_trusted(&compiled.tables, part.commit.lsn) {
                return None;
            }
            let world = world(&self.shadow);
            found = group.under(compiled.plan.audience(world, row, group)?);
        }
        if is_before {
            let row = self
                .rows
                .entry((index, compiled.number, When::Before))
                .or_insert_with(|| old_row(knowledge, compiled, change, view))
                .as_ref();
            let is_known = self
                .shadow
                .is_trusted_before(&compiled.tables, part.commit.lsn);
            match row.filter(|_| is_known) {
                Some(row) => {
                    let before = self.shadow.before();
                    let world = world(&before);
                    found.append(&mut group.under(compiled.plan.audience(world, row, group)?));
                }
                // Nobody can be told that the row has left; a key goes to everybody.
                None if is_after => {}
                None => return None,
            }
        }
        Some(found)
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
        let verdict = self.verdict(sitting, identity, part, routed, (index, When::After))?;
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

    /// Whether the identity saw, right before the transaction, the row that change `index` has changed or deleted;
    /// `None`: nobody can tell. Must be asked while nothing later was applied.
    pub(super) fn judge_old(
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
        match self.verdict(sitting, identity, part, routed, (index, When::Before))?? {
            Verdict::Allow => Some(Judgement::Allowed),
            Verdict::Deny => Some(Judgement::Hidden),
            Verdict::Raised(error) => Some(Judgement::Raised(error.sqlstate)),
            Verdict::Undecided(_) => None,
        }
    }

    /// `None`: there is no plan; inside: there is no row, or a table is not at hand.
    #[allow(
        clippy::option_option,
        reason = "that there is no plan is not counted; that a row is missing is"
    )]
    fn verdict(
        &mut self,
        sitting: &mut Sitting,
        identity: &Identity,
        part: &Part,
        routed: u64,
        (index, when): (u32, When),
    ) -> Option<Option<Verdict>> {
        let (change, view) = part.change(index)?;
        let planned = self.plans.get(&view.table.oid)?.get(identity.role())?;
        let compiled = planned.as_ref().ok()?;
        let knowledge = self.knowledge.as_ref()?;
        if !self.holds(compiled, view.table.oid, part.commit.lsn) {
            return Some(None);
        }
        if std::mem::replace(&mut self.routed, routed) != routed {
            self.rows.clear();
        }
        let row = self
            .rows
            .entry((index, compiled.number, when))
            .or_insert_with(|| match when {
                When::After => row(knowledge, compiled, change, view),
                When::Before => old_row(knowledge, compiled, change, view),
            });
        let commit = part.commit.lsn;
        let before = self.shadow.before();
        let (is_trusted, tables): (bool, &dyn Tables) = match when {
            When::After => (
                self.shadow.is_trusted(&compiled.tables, commit),
                &self.shadow,
            ),
            When::Before => (
                self.shadow.is_trusted_before(&compiled.tables, commit),
                &before,
            ),
        };
        Some(row.as_ref().filter(|_| is_trusted).map(|row| {
            sitting.at(identity, &part.commit);
            evaluate(compiled, knowledge, tables, sitting, row)
        }))
    }
}

/// Places the lanes of a group by their claims.
fn place(
    group: &mut Group,
    compiled: &Compiled,
    knowledge: &Knowledge,
    shadow: &Shadow,
    lanes: &mut Lanes,
    part: &Part,
) {
    group.place(compiled.number, |id| {
        let lane = lanes.get_mut(&id)?;
        // Postgres is asked about its filters, and with them about the row.
        if lane.key.uncertain.is_some() {
            return None;
        }
        lane.sitting.at(&lane.key.identity, &part.commit);
        let session = lane.sitting.session.as_ref()?;
        compiled.plan.keys(World {
            tables: shadow,
            session,
            types: &knowledge.schema.types,
        })
    });
}

/// Whether the stream may carry all that a plan reads of old rows.
fn knows_old_rows(catalog: &Catalog, schema: &Schema, oid: Oid, plan: &Plan) -> bool {
    let (Some(table), Some(known)) = (catalog.tables.get(&oid), schema.tables.get(&oid)) else {
        return false;
    };
    match table.identity {
        ReplicaIdentity::Full | ReplicaIdentity::Index => true,
        ReplicaIdentity::Nothing => false,
        ReplicaIdentity::Default => {
            let is_key = |column: &usize| {
                known.columns.get(*column).is_some_and(|column| {
                    let mut key = table.primary_key.iter();
                    key.any(|index| {
                        let own = table.columns.get(*index);
                        own.is_some_and(|own| own.name == column.name)
                    })
                })
            };
            plan.reads.columns.iter().all(is_key)
        }
    }
}

fn shown(status: Status) -> ShadowState {
    let (state, reason, exact_from) = match status.state {
        State::Wanted => ("wanted", None, None),
        State::Loading => ("loading", None, None),
        State::Trusted { from } => ("trusted", None, Some(from.to_string())),
        State::Invalid { reason } => ("invalid", Some(reason), None),
        State::TooLarge => (
            "too large",
            Some("it does not fit into shadow_bytes_max beside the others".into()),
            None,
        ),
        State::Unfit { reason } => ("unfit", Some(reason), None),
    };
    ShadowState {
        table: format!("{}.{}", status.schema, status.name).into(),
        state,
        reason,
        exact_from,
        rows: status.rows,
        bytes: status.bytes,
        loads: status.loads,
        loaded_again_because: status.why,
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
        looks_back: false,
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
    let data: Vec<Datum<'_>> = new.iter().collect();
    values(knowledge, compiled, change, view, |place| {
        data.get(place).copied()
    })
}

/// The row before the transaction as the plan reads it, if the stream tells so much. Without an old tuple the columns of the
/// replica identity did not change.
fn old_row(
    knowledge: &Knowledge,
    compiled: &Compiled,
    change: &Change,
    view: &View,
) -> Option<Tuple> {
    let (tuple, all_known) = match &change.kind {
        ChangeKind::Delete { old } | ChangeKind::Update { old: Some(old), .. } => {
            (&old.tuple, old.kind == OldKind::Full)
        }
        ChangeKind::Update { old: None, new } => (new, false),
        ChangeKind::Insert { .. } | ChangeKind::Truncate => return None,
    };
    let data: Vec<Datum<'_>> = tuple.iter().collect();
    values(knowledge, compiled, change, view, |place| {
        let is_known = all_known || change.relation.columns.get(place)?.in_identity;
        data.get(place).copied().filter(|_| is_known)
    })
}

fn values<'a>(
    knowledge: &Knowledge,
    compiled: &Compiled,
    change: &Change,
    view: &View,
    datum: impl Fn(usize) -> Option<Datum<'a>>,
) -> Option<Tuple> {
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
    for index in &compiled.plan.reads.columns {
        let column = table
            .columns
            .get(*index)
            .filter(|column| !column.generated)?;
        let place = places.iter().position(|place| place == index)?;
        let value = match datum(place)? {
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
    tables: &dyn Tables,
    sitting: &mut Sitting,
    row: &Tuple,
) -> Verdict {
    let Some(session) = &sitting.session else {
        return Verdict::Undecided("no session".into());
    };
    let watched = Watched {
        tables,
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
    raised.unwrap_or_else(|| {
        if sitting.known.len() >= PREFLIGHTS_MAX {
            sitting.known.clear();
        }
        let known = sitting.known.entry(compiled.number).or_default();
        compiled.plan.judge_knowing(world, row, known)
    })
}

/// Notes whether tables were looked into.
struct Watched<'a> {
    tables: &'a dyn Tables,
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

#[cfg(test)]
pub(super) mod tests;
