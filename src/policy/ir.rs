//! Compiled policies: typed expressions over rows, parameters and tables.
//!
//! Every call names a built-in function, every cast its method; names, overloads and implicit casts are settled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::audience::Audience;
use super::builtin::{Aggregate, Builtin, Collation, SetReturning};
use super::value::{Oid, SqlError, Value};

/// A typed expression.
#[derive(Clone, Debug)]
pub(crate) struct Expr {
    pub(crate) node: Node,
    pub(crate) type_oid: Oid,
    pub(crate) typmod: i32,
    pub(crate) collation: Collated,
    /// The order of an array's elements is not determined by the data.
    pub(crate) unordered: bool,
}

/// The collation of an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Collated {
    /// 0: none; [`CONFLICT`]: two that exclude each other.
    pub(crate) oid: Oid,
    /// Set by COLLATE.
    pub(crate) explicit: bool,
}

/// Two implicit collations that exclude each other.
pub(crate) const CONFLICT: Oid = 1;
/// `pg_collation.oid` of `default`.
pub(crate) const DEFAULT_COLLATION: Oid = 100;

impl Collated {
    pub(crate) const NONE: Self = Self {
        oid: 0,
        explicit: false,
    };

    pub(crate) const fn implicit(oid: Oid) -> Self {
        Self {
            oid,
            explicit: false,
        }
    }
}

/// A call of a built-in function.
#[derive(Clone, Debug)]
pub(crate) struct BuiltinCall {
    pub(crate) function: Oid,
    pub(crate) builtin: &'static Builtin,
    pub(crate) arguments: Vec<Expr>,
    pub(crate) types: Box<[Oid]>,
    pub(crate) result: Oid,
    pub(crate) collation: Collation,
    /// An operator whose selectivity the planner estimates.
    pub(crate) estimated: bool,
    pub(crate) volatile: bool,
}

/// What an expression is made of.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    Const(Value),
    /// A column of a row of a query: how many queries further out, which of its tables, which column.
    Column {
        level: usize,
        item: usize,
        column: usize,
    },
    /// The whole row of a table of a query.
    WholeRow {
        level: usize,
        item: usize,
    },
    /// A variable of the function.
    Parameter(usize),
    /// A value that the surrounding node provides.
    Slot(usize),
    /// An aggregate (level 0) or a group key (level 1) of the innermost query.
    Grouped {
        level: usize,
        index: usize,
    },
    Call(Box<BuiltinCall>),
    /// A function of the user's, by its place among the plan's routines.
    Routine {
        routine: usize,
        arguments: Vec<Expr>,
        volatile: bool,
    },
    /// Over claims alone: one value for an identity, known under this number once it was needed.
    OfClaims(usize, Box<Expr>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Not(Box<Expr>),
    IsNull(Box<Expr>, bool),
    /// Negated if the last is true; `None` is UNKNOWN.
    IsTruth(Box<Expr>, Option<bool>, bool),
    /// The call is the equality; `true`: IS NOT DISTINCT FROM.
    Distinct(Box<BuiltinCall>, bool),
    NullIf(Box<BuiltinCall>),
    /// `left op ANY (right)`: the call's arguments are slots 0 and 1.
    AnyArray {
        all: bool,
        left: Box<Expr>,
        right: Box<Expr>,
        test: Box<Expr>,
        estimated: bool,
    },
    Case(Vec<(Expr, Expr)>, Option<Box<Expr>>),
    Coalesce(Vec<Expr>),
    /// `true`: GREATEST
    Extreme(bool, Vec<Expr>),
    Array(Vec<Expr>),
    Row(Vec<Expr>),
    Field(Box<Expr>, usize),
    Subscript(Box<Expr>, Vec<Expr>),
    Slice(Box<Expr>, Option<Box<Expr>>, Option<Box<Expr>>),
    /// The same representation under another type.
    Relabel(Box<Expr>),
    /// An array whose elements come in no certain order: undecided if that can make a difference.
    Arranged(Box<Expr>),
    /// Through the text form, from the type of the expression to that of this one.
    TextForm(Box<Expr>),
    /// Each element of an array through an expression over slot 0.
    Elements(Box<Expr>, Box<Expr>),
    Exists(Arc<Query>),
    Scalar(Arc<Query>),
    ArrayQuery(Arc<Query>),
    /// `(left …) op ANY (query)`: the test's slots are the left values, then the row's.
    AnyQuery {
        all: bool,
        left: Vec<Expr>,
        test: Box<Expr>,
        query: Arc<Query>,
        /// Rows that can be looked up instead of going through all of them.
        probes: Vec<Probe>,
    },
    /// Raises.
    Raise(SqlError),
}

/// A value in front of `= ANY (query)` that a column of one of the query's tables must equal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    /// Which of the values on the left; a plain column or variable.
    pub(crate) left: usize,
    pub(crate) item: usize,
    /// Is what the query selects for it, and never NULL.
    pub(crate) column: usize,
}

/// A query.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    pub(crate) with: Vec<With>,
    pub(crate) body: Body,
    /// Over the output row, as columns of item 0 of level 0.
    pub(crate) order_by: Vec<SortKey>,
    pub(crate) limit: Option<Expr>,
    pub(crate) offset: Option<Expr>,
    /// Output columns; those behind are for sorting only.
    pub(crate) width: usize,
    pub(crate) types: Vec<Oid>,
    pub(crate) names: Vec<Box<str>>,
    /// At most one row can come out.
    pub(crate) single: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct With {
    /// Its place among the CTEs of the statement.
    pub(crate) index: usize,
    pub(crate) query: Arc<Query>,
    /// The second term of a recursive one; `true`: UNION ALL.
    pub(crate) recursive: Option<(Arc<Query>, bool)>,
}

#[derive(Clone, Debug)]
pub(crate) enum Body {
    Select(Box<Select>),
    Union(Arc<Query>, Arc<Query>, bool),
    Intersect(Arc<Query>, Arc<Query>),
    Except(Arc<Query>, Arc<Query>),
    Values(Vec<Vec<Expr>>),
}

#[derive(Clone, Debug)]
pub(crate) struct SortKey {
    pub(crate) value: Expr,
    pub(crate) descending: bool,
    pub(crate) nulls_first: bool,
    /// Text is ordered by bytes.
    pub(crate) bytewise: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Select {
    pub(crate) from: Vec<Source>,
    /// Number of tables in `from`.
    pub(crate) items: usize,
    /// Parts of conditions that depend on no row of this query. Postgres may evaluate them whether or not a row gets that
    /// far: if one raises, it must be asked.
    pub(crate) invariants: Vec<Expr>,
    /// The same of queries that the planner may merge with this one: evaluated even before the conditions that read no
    /// row.
    pub(crate) merged: Vec<Expr>,
    /// Tables whose rows may raise, and which Postgres may read before those that stand further left: by their items.
    pub(crate) ahead: BTreeSet<usize>,
    /// Other rows than those that are needed may raise: all are looked at.
    pub(crate) exhaustive: bool,
    /// Conditions on the rows, cheapest first, behind those that read no row of this query, in their own order.
    pub(crate) filter: Vec<Expr>,
    /// How many of the conditions read no row of this query: Postgres evaluates them before it looks at any.
    pub(crate) gates: usize,
    pub(crate) grouping: Option<Grouping>,
    pub(crate) targets: Vec<Expr>,
    /// Functions among the targets that return sets, over the same row; a target refers to them as slots.
    pub(crate) sets: Vec<SetCall>,
    /// Types of the columns for DISTINCT; the first `width` of the query.
    pub(crate) distinct: bool,
    /// DISTINCT ON: how many of the sort keys must differ.
    pub(crate) distinct_on: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Grouping {
    pub(crate) keys: Vec<Expr>,
    pub(crate) aggregates: Vec<AggregateCall>,
    /// Over [`Node::Grouped`].
    pub(crate) having: Option<Expr>,
}

#[derive(Clone, Debug)]
pub(crate) struct AggregateCall {
    pub(crate) aggregate: &'static Aggregate,
    pub(crate) arguments: Vec<Expr>,
    pub(crate) types: Box<[Oid]>,
    pub(crate) result: Oid,
    pub(crate) collation: Collation,
    pub(crate) distinct: bool,
    pub(crate) order_by: Vec<SortKey>,
    pub(crate) filter: Option<Expr>,
}

/// Where rows come from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Table(TableSource),
    Query {
        item: usize,
        query: Arc<Query>,
    },
    With {
        item: usize,
        index: usize,
    },
    Set {
        item: usize,
        call: SetCall,
        ordinality: bool,
        single: bool,
    },
    Join {
        kind: Join,
        left: Box<Self>,
        right: Box<Self>,
        on: Vec<Expr>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Join {
    Inner,
    Left,
}

#[derive(Clone, Debug)]
pub(crate) struct TableSource {
    pub(crate) item: usize,
    pub(crate) table: Oid,
    /// Column = expression over what is known before; only rows that pass can matter.
    pub(crate) keys: Vec<(usize, Expr)>,
    /// What reads no other table of the query and may raise: Postgres may evaluate it on every row that the keys leave.
    pub(crate) risky: Vec<Expr>,
    /// There are such parts of conditions, or the policy may raise. Keys are then only what is compared before.
    pub(crate) is_risky: bool,
    /// Parts of the policy that depend on no row.
    pub(crate) invariants: Vec<Expr>,
    /// What may raise for some row that the keys leave out: parts that depend on no row, of the policy and of
    /// conditions on this table alone. Without values for all of them every row is looked at.
    pub(crate) reserved: Reserved,
    /// Row security: over the row alone, as item 0 of level 0.
    pub(crate) policy: Option<Arc<Expr>>,
}

/// Parts of conditions on a table that depend on no row, and are evaluated for some rows only.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reserved {
    /// Of the policy.
    pub(crate) of_policy: Vec<Expr>,
    /// Conditions with such parts, and the parts.
    pub(crate) of_conditions: Vec<(Expr, Vec<Expr>)>,
}

impl Reserved {
    pub(crate) fn is_empty(&self) -> bool {
        self.of_policy.is_empty() && self.of_conditions.is_empty()
    }
}

/// A call that returns rows.
#[derive(Clone, Debug)]
pub(crate) enum SetCall {
    Builtin {
        function: Oid,
        set: &'static SetReturning,
        arguments: Vec<Expr>,
        types: Box<[Oid]>,
        result: Oid,
        collation: Collation,
    },
    Routine {
        routine: usize,
        arguments: Vec<Expr>,
    },
    /// A function of one row where a set may stand.
    Scalar(Box<Expr>),
}

/// A function of the user's, compiled for the role that it runs as.
#[derive(Clone, Debug)]
pub(crate) struct Routine {
    pub(crate) oid: Oid,
    pub(crate) strict: bool,
    pub(crate) volatile: bool,
    /// Postgres evaluates a call over constants while planning.
    pub(crate) immutable: bool,
    pub(crate) returns_set: bool,
    /// It returns an array in no certain order.
    pub(crate) unordered: bool,
    /// What of it may raise.
    pub(crate) hazard: Hazard,
    pub(crate) code: Code,
}

/// What may raise in a function.
#[derive(Clone, Debug)]
pub(crate) struct Hazard {
    /// Something raises for some arguments, or on some row.
    pub(crate) on_values: bool,
    /// Parts over claims alone that may raise.
    pub(crate) of_claims: Vec<Expr>,
}

impl Hazard {
    /// Of a function that is still being compiled: it calls itself.
    pub(crate) const UNKNOWN: Self = Self {
        on_values: true,
        of_claims: Vec::new(),
    };

    pub(crate) const fn is_none(&self) -> bool {
        !self.on_values && self.of_claims.is_empty()
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Code {
    /// Not compiled yet: only while the compiler is inside of it.
    Pending,
    /// Raises whenever it is called.
    Raise(SqlError),
    /// The statements of an SQL function; the last one's first column, or row, is the result.
    Sql {
        statements: Vec<Statement>,
        result: SqlResult,
    },
    Plpgsql(Box<Program>),
}

#[derive(Clone, Debug)]
pub(crate) enum SqlResult {
    Nothing,
    /// The cast of the first column (slot 0).
    Column(Box<Expr>),
    /// All columns make a row.
    Row,
}

/// A query, and what the planner evaluates before it runs.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    pub(crate) query: Arc<Query>,
    pub(crate) eager: Vec<Expr>,
    /// The same, if the planner comes to it.
    pub(crate) perhaps: Vec<Expr>,
}

/// A PL/pgSQL function.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// Number of variables, arguments first.
    pub(crate) variables: usize,
    /// Variables that hold the OUT arguments.
    pub(crate) outputs: Vec<usize>,
    pub(crate) found: usize,
    pub(crate) body: Vec<Step>,
    pub(crate) returns_void: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Variable := the first column of the query (cast in slot 0).
    Assign {
        variable: usize,
        value: Statement,
        cast: Box<Expr>,
    },
    If(Vec<(Statement, Vec<Self>)>, Vec<Self>),
    /// Raises 20000 without a branch.
    Return(Option<(Statement, Box<Expr>)>),
    ReturnQuery(Statement),
    ReturnNext(Option<(Statement, Box<Expr>)>),
    Raise(SqlError, Vec<Statement>),
    /// Evaluates arguments of a message only.
    Notice(Vec<Statement>),
    /// SELECT INTO: targets with casts of each column (slot 0).
    Into {
        query: Statement,
        strict: bool,
        targets: Vec<IntoTarget>,
    },
    Perform(Statement),
    ForQuery {
        query: Statement,
        targets: Vec<IntoTarget>,
        body: Vec<Self>,
    },
    ForEach {
        variable: usize,
        array: Statement,
        cast: Box<Expr>,
        body: Vec<Self>,
    },
    /// EXIT, or CONTINUE if true.
    Leave(bool, Option<Statement>),
    Block {
        body: Vec<Self>,
        handlers: Vec<(Vec<Condition>, Vec<Self>)>,
    },
    /// Raises what the handler caught.
    RaiseAgain,
}

#[derive(Clone, Debug)]
pub(crate) enum IntoTarget {
    /// The column at this place into a variable.
    Variable {
        variable: usize,
        column: usize,
        cast: Box<Expr>,
    },
    /// All columns into a variable of a row type.
    Record { variable: usize, width: usize },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Others,
    /// A SQLSTATE, or the two characters of its class.
    State(Box<str>),
}

/// What a plan reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// Tables that are looked into, with the indexes of the columns that are used.
    pub tables: BTreeMap<Oid, BTreeSet<usize>>,
    /// For each looked-up table the sets of columns that are compared for equality: the indexes worth having.
    pub lookups: BTreeSet<(Oid, Vec<usize>)>,
    /// Indexes of the columns of the protected row.
    pub columns: BTreeSet<usize>,
    /// The outermost members of the setting `request.jwt.claims` that are used; `None`: all of it.
    pub claims: Option<BTreeSet<Box<str>>>,
    /// Settings, in lower case; `request.jwt.claims` is one.
    pub settings: BTreeSet<Box<str>>,
    /// The verdict depends on the time at which it is taken.
    pub time: bool,
}

/// The compiled policies of one table for one role.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(crate) qual: Expr,
    /// What the planner evaluates: an error is one for the whole table.
    pub(crate) eager: Vec<Expr>,
    /// The same, if the planner comes to it: calls over constants, and operands.
    pub(crate) folded: Vec<Expr>,
    pub(crate) routines: Vec<Routine>,
    /// Whom a row may concern.
    pub(crate) audience: Audience,
    /// What it reads.
    pub reads: Reads,
}

impl Plan {
    /// The same answer for every row, claim and moment, if the plan is of that kind.
    #[must_use]
    pub fn constant(&self) -> Option<Result<bool, &SqlError>> {
        match &self.qual.node {
            Node::Const(value) => Some(Ok(*value == Value::Bool(true))),
            Node::Raise(error) => Some(Err(error)),
            _ => None,
        }
    }
}

/// Why policies are not compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// For operators.
    pub reason: Box<str>,
}
