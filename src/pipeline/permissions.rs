//! Who may read a private topic, and send to it: which tables decide it, and the first answer where the policies are
//! understood.
//!
//! Pure. The policies of `realtime.messages` come in with everything else that is known of the database (protocol.md §7.5).
//! A policy that is not understood is left to Postgres; its tables are then all whose names its text, or that of a function
//! that it may call, mentions, and what views and partitioned tables have their rows from. Who may send is always left to
//! Postgres.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::knowledge::Knowledge;
use crate::auth::Claims;
use crate::catalog::Catalog;
use crate::change::Oid;
use crate::policy::builtin::Session;
use crate::policy::schema::{Schema, Table};
use crate::policy::value::{Value, oid};
use crate::policy::{Plan, Reads, Tables, Tuple, Verdict, World, compile};
use crate::realtime::Extension;

/// What a question sets, as `messages` does; all in lower case.
const SETTINGS: [&str; 5] = [
    "realtime.topic",
    "request.jwt.claims",
    "request.jwt.claim.sub",
    "request.jwt.claim.role",
    "request.headers",
];
/// Roles for which plans are made; others are asked of Postgres.
const ROLES_MAX: usize = 64;

/// Who wants to read what.
#[derive(Clone, Debug)]
pub struct Reader {
    /// As whom.
    pub claims: Arc<Claims>,
    /// `request.headers`: a JSON object.
    pub headers: Arc<str>,
    /// The topic without its prefix.
    pub sub_topic: Box<str>,
    /// Whether presence is wanted.
    pub presence: bool,
}

/// What may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Permitted {
    pub(super) broadcast: bool,
    pub(super) presence: bool,
}

/// The policies of `realtime.messages`.
#[derive(Debug, Default)]
pub(super) struct Permissions {
    /// By role.
    plans: HashMap<Box<str>, Planned>,
    /// Tables of which a change may decide who may read.
    tables: BTreeSet<Oid>,
    /// Those of which columns may decide that no plan reads.
    mentioned: BTreeSet<Oid>,
    /// Tables of which a change may decide who may send.
    sending: BTreeSet<Oid>,
}

#[derive(Debug)]
struct Planned {
    plan: Plan,
    tables: Vec<Oid>,
    /// Columns of `realtime.messages`.
    width: usize,
    /// The places of `topic` and `extension` among them.
    topic: usize,
    extension: usize,
}

impl Permissions {
    pub(super) fn of(knowledge: &Knowledge, catalog: &Catalog) -> Self {
        let schema = &knowledge.schema;
        let mut permissions = Self::default();
        let Some(messages) = schema.table("realtime", "messages") else {
            return permissions;
        };
        let roles = catalog.roles.iter();
        let mut names = roles.filter(|(_, role)| !role.bypasses_row_security);
        for (name, _) in names.by_ref().take(ROLES_MAX) {
            let Some(role) = schema.role(name) else {
                permissions
                    .mentioned
                    .extend(mentioned(schema, messages, quals(messages)));
                continue;
            };
            match compile(schema, messages.oid, role) {
                Ok(plan) => {
                    let reads: Vec<Oid> = plan.reads.tables.keys().copied().collect();
                    match Planned::of(knowledge, messages, name, plan) {
                        Some(planned) => {
                            permissions.tables.extend(reads);
                            permissions.plans.insert(name.clone(), planned);
                        }
                        None => permissions.mentioned.extend(reads),
                    }
                }
                Err(refusal) => {
                    let reason = &refusal.reason;
                    tracing::info!(role = &**name, %reason, "permissions of private topics are asked of Postgres");
                    permissions
                        .mentioned
                        .extend(mentioned(schema, messages, quals(messages)));
                }
            }
        }
        if names.next().is_some() {
            permissions
                .mentioned
                .extend(mentioned(schema, messages, quals(messages)));
        }
        // Of a partitioned table that is followed its partitions are known only once it was loaded.
        permissions.tables = with_sources(schema, &permissions.tables);
        permissions.tables.extend(&permissions.mentioned);
        permissions.tables.remove(&messages.oid);
        let checks = schema.message_checks.iter();
        permissions.sending = mentioned(schema, messages, checks.map(|check| &**check));
        permissions
    }

    /// The plans are no longer those of the database. What may decide is remembered until it is known better.
    pub(super) fn forget_plans(&mut self) {
        self.plans.clear();
    }

    /// What the plans look into.
    pub(super) fn reads(&self) -> impl Iterator<Item = &Reads> {
        self.plans.values().map(|planned| &planned.plan.reads)
    }

    /// Whether any table decides who may read or send.
    pub(super) fn reads_tables(&self) -> bool {
        !self.tables.is_empty() || !self.sending.is_empty()
    }

    /// Whether a change of this table may decide who may send.
    pub(super) fn decides_sending(&self, table: Oid) -> bool {
        self.sending.contains(&table)
    }

    /// Whether a change of this table may decide who may read.
    pub(super) fn reads_table(&self, table: Oid) -> bool {
        self.tables.contains(&table)
    }

    /// Whether any change of this table counts, for it is not known which of its columns decide.
    pub(super) fn mentions_table(&self, table: Oid) -> bool {
        self.mentioned.contains(&table)
    }

    /// Whether somebody may read a topic now; `None`: Postgres must be asked. `is_current` says whether tables are at hand as
    /// of now.
    pub(super) fn judge(
        &self,
        knowledge: &Knowledge,
        tables: &dyn Tables,
        is_current: impl Fn(&[Oid]) -> bool,
        reader: &Reader,
    ) -> Option<Permitted> {
        let planned = self.plans.get(&reader.claims.role)?;
        if !is_current(&planned.tables) {
            return None;
        }
        let session = session(reader);
        let world = World {
            tables,
            session: &session,
            types: &knowledge.schema.types,
        };
        planned.plan.preflight(world).ok()?;
        let sees = |extension: Extension| {
            let row = planned.probe(&reader.sub_topic, extension)?;
            match planned.plan.judge(world, &row) {
                Verdict::Allow => Some(true),
                Verdict::Deny => Some(false),
                // One that raises is told what Postgres says.
                Verdict::Raised(_) | Verdict::Undecided(_) => None,
            }
        };
        let broadcast = sees(Extension::Broadcast)?;
        let presence = reader.presence && sees(Extension::Presence)?;
        Some(Permitted {
            broadcast,
            presence,
        })
    }
}

impl Planned {
    /// A plan that reads nothing of a probe but what is known of every probe.
    fn of(knowledge: &Knowledge, messages: &Table, role: &str, plan: Plan) -> Option<Self> {
        let schema = &knowledge.schema;
        let place = |name: &str| {
            let is_it = |column: &crate::policy::schema::Column| {
                &*column.name == name && column.type_oid == oid::TEXT
            };
            messages.columns.iter().position(is_it)
        };
        let (topic, extension) = (place("topic")?, place("extension")?);
        let is_known = |name: &str| SETTINGS.contains(&name) || knowledge.unset.contains(name);
        let is_odd = knowledge.searches_user && schema.namespaces.contains_key(role);
        let is_sound = !is_odd
            && !plan.reads.time
            && plan.reads.settings.iter().all(|name| is_known(name))
            && plan
                .reads
                .columns
                .iter()
                .all(|column| [topic, extension].contains(column));
        is_sound.then(|| Self {
            tables: plan.reads.tables.keys().copied().collect(),
            plan,
            width: messages.columns.len(),
            topic,
            extension,
        })
    }

    fn probe(&self, sub_topic: &str, extension: Extension) -> Option<Tuple> {
        let mut values = vec![Value::Null; self.width];
        *values.get_mut(self.topic)? = Value::text(sub_topic);
        *values.get_mut(self.extension)? = Value::text(extension.as_str());
        Some(values.into())
    }
}

fn session(reader: &Reader) -> Session {
    let claims = &reader.claims;
    let [topic, json, subject, role, headers] = SETTINGS;
    // As `messages` sets it.
    let name = if &*claims.role == "none" {
        ""
    } else {
        &claims.role
    };
    let values: [(&str, &str); 5] = [
        (topic, &reader.sub_topic),
        (json, &claims.json),
        (subject, claims.subject.as_deref().unwrap_or_default()),
        (role, name),
        (headers, &reader.headers),
    ];
    Session {
        now: 0,
        settings: values
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
    }
}

/// Tables with all that their rows come from.
fn with_sources(schema: &Schema, tables: &BTreeSet<Oid>) -> BTreeSet<Oid> {
    let mut found = tables.clone();
    let mut left: Vec<Oid> = found.iter().copied().collect();
    while let Some(table) = left.pop() {
        let sources = schema.sources.get(&table).into_iter().flatten();
        left.extend(sources.filter(|source| found.insert(**source)));
    }
    found
}

/// Tables whose names are mentioned by these conditions of a table, by functions that those may call, and by the policies of
/// tables so found; with what is behind them.
fn mentioned<'a>(
    schema: &'a Schema,
    table: &Table,
    conditions: impl Iterator<Item = &'a str>,
) -> BTreeSet<Oid> {
    let mut by_name: BTreeMap<&str, Vec<&Arc<Table>>> = BTreeMap::new();
    for table in schema.tables.values() {
        by_name.entry(&table.name).or_default().push(table);
    }
    let mut found = BTreeSet::new();
    let mut called = BTreeSet::new();
    let mut texts: Vec<&str> = conditions.collect();
    let (mut tables, mut functions) = (Vec::new(), Vec::new());
    while let Some(text) = texts.pop() {
        for word in text.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '$') {
            let folded = word.to_ascii_lowercase();
            for name in [word, &*folded] {
                let named = by_name.get(name).into_iter().flatten();
                tables.extend(named.map(|table| table.oid));
                functions.extend(schema.function_names.get(name).into_iter().flatten());
            }
        }
        while let Some(oid) = tables.pop() {
            if !found.insert(oid) {
                continue;
            }
            texts.extend(
                schema
                    .tables
                    .get(&oid)
                    .into_iter()
                    .flat_map(|table| quals(table)),
            );
            tables.extend(schema.sources.get(&oid).into_iter().flatten());
            let called = schema.view_functions.get(&oid).into_iter().flatten();
            functions.extend(called.filter_map(|oid| schema.functions.get(oid)));
        }
        for function in functions.drain(..) {
            if function.oid >= FIRST_USER_OID && called.insert(function.oid) {
                texts.push(&function.body);
                texts.extend(function.defaults.iter().map(|text| &**text));
            }
        }
    }
    found.remove(&table.oid);
    found
}

/// OIDs from here on belong to objects that users and extensions made (Postgres source, "FirstNormalObjectId").
const FIRST_USER_OID: Oid = 16_384;

fn quals(table: &Table) -> impl Iterator<Item = &str> {
    let policies = table.policies.iter();
    policies.filter_map(|policy| policy.qual.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::schema::{Function, Policy};

    fn table(oid: Oid, name: &str, quals: &[&str]) -> Arc<Table> {
        Arc::new(Table {
            oid,
            schema: "public".into(),
            name: name.into(),
            kind: b'r',
            permanent: true,
            has_children: false,
            row_type: 0,
            owner: 10,
            row_security: true,
            force_row_security: false,
            columns: Arc::new([]),
            keys: Vec::new(),
            policies: (quals.iter())
                .map(|qual| Policy {
                    name: "p".into(),
                    permissive: true,
                    roles: vec![0],
                    qual: Some((*qual).into()),
                })
                .collect(),
            readers: Default::default(),
            column_readers: Default::default(),
        })
    }

    fn function(oid: Oid, name: &str, body: &str) -> Arc<Function> {
        Arc::new(Function {
            oid,
            schema: "public".into(),
            name: name.into(),
            arguments: [].into(),
            argument_names: [].into(),
            outputs: [].into(),
            defaults: [].into(),
            variadic: 0,
            result: 16,
            returns_set: false,
            kind: b'f',
            language: "plpgsql".into(),
            body: body.into(),
            bound: false,
            definer: false,
            owner: 10,
            strict: false,
            volatility: b's',
            config: [].into(),
            cost: 1.0,
            executors: None,
        })
    }

    #[test]
    fn what_a_policy_may_read_is_found_by_its_names() {
        let tables = [
            table(1, "members", &["(EXISTS ( SELECT 1 FROM public.teams t))"]),
            table(2, "teams", &["(id > 0)"]),
            table(3, "Odd Name", &[]),
            table(4, "banned", &[]),
            table(5, "unrelated", &["(EXISTS ( SELECT FROM public.members))"]),
            table(6, "member", &[]),
            table(7, "view", &[]),
            table(8, "partitioned", &[]),
        ];
        let functions = [
            function(
                20_000,
                "may",
                "begin return exists (select from MEMBERS); end",
            ),
            function(20_001, "is_fine", "select not is_bad()"),
            function(20_002, "is_bad", "select exists (table banned)"),
            function(20_003, "uncalled", "select exists (table unrelated)"),
            function(20_004, "behind", "select exists (table teams)"),
            // Of the system: its body is a name in C.
            function(900, "system", "unrelated"),
        ];
        let mut schema = Schema::default();
        for table in tables {
            schema.tables.insert(table.oid, table);
        }
        for function in functions {
            let name = function.name.clone();
            let of_name = schema.function_names.entry(name).or_default();
            of_name.push(Arc::clone(&function));
            schema.functions.insert(function.oid, function);
        }
        // A view over a partitioned table, which calls a function.
        schema.sources = [(7, vec![8]), (8, vec![10, 11])].into();
        schema.view_functions = [(7, vec![20_004])].into();
        let found = |qual: &str| -> Vec<Oid> {
            let messages = table(9, "messages", &[qual]);
            (mentioned(&schema, &messages, quals(&messages)).into_iter()).collect()
        };
        assert!(found("true").is_empty());
        assert_eq!(found("public.may()"), [1, 2]);
        assert_eq!(found("(public.is_fine() AND system())"), [4]);
        assert_eq!(found("(EXISTS ( SELECT FROM public.member))"), [6]);
        assert_eq!(
            found("(EXISTS ( SELECT FROM public.view))"),
            [2, 7, 8, 10, 11]
        );
        // Who may send is decided by other conditions than who may read.
        let messages = table(9, "messages", &["public.may()"]);
        let checks = ["(EXISTS ( SELECT FROM public.messages))", "is_fine()"];
        let sending = mentioned(&schema, &messages, checks.into_iter());
        assert!(sending.into_iter().eq([4]));
        let read = BTreeSet::from([6, 8]);
        assert!(with_sources(&schema, &read).into_iter().eq([6, 8, 10, 11]));
    }
}
