//! The syntax tree: what was written, without meaning.

/// A name of one or more parts.
pub(crate) type Name = Vec<String>;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Ast {
    Null,
    Bool(bool),
    Number(String),
    String(String),
    Bits(char, String),
    Parameter(usize),
    /// `a.b.c`: a column, a variable, or a row.
    Name(Name),
    /// `*` or `a.*`
    Star(Name),
    And(Vec<Self>),
    Or(Vec<Self>),
    Not(Box<Self>),
    /// `IS [NOT] NULL`
    IsNull(Box<Self>, bool),
    /// `IS [NOT] TRUE`, `FALSE`, `UNKNOWN` (none)
    IsTruth(Box<Self>, Option<bool>, bool),
    /// `IS [NOT] DISTINCT FROM`; `true` for NOT
    Distinct(Box<Self>, Box<Self>, bool),
    Unary(Name, Box<Self>),
    Binary(Name, Box<Self>, Box<Self>),
    /// `IN (list)`; `true` for NOT
    InList(Box<Self>, Vec<Self>, bool),
    InQuery(Box<Self>, Box<Query>, bool),
    /// `x op ANY (array or query)`; `true` for ALL
    Quantified(Name, bool, Box<Self>, Box<Self>),
    Case(Option<Box<Self>>, Vec<(Self, Self)>, Option<Box<Self>>),
    Coalesce(Vec<Self>),
    NullIf(Box<Self>, Box<Self>),
    /// `true` for GREATEST
    Extreme(bool, Vec<Self>),
    Array(Vec<Self>),
    ArrayQuery(Box<Query>),
    Row(Vec<Self>),
    Exists(Box<Query>),
    Query(Box<Query>),
    Cast(Box<Self>, TypeName),
    Collate(Box<Self>, Name),
    Subscript(Box<Self>, Box<Self>),
    Slice(Box<Self>, Option<Box<Self>>, Option<Box<Self>>),
    Field(Box<Self>, String),
    Call(Box<Call>),
    /// `CURRENT_USER`, `CURRENT_DATE` …, in lower case, with the precision.
    Session(&'static str, Option<i32>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    pub(crate) name: Name,
    pub(crate) arguments: Vec<Argument>,
    /// `count(*)`
    pub(crate) star: bool,
    pub(crate) distinct: bool,
    pub(crate) variadic: bool,
    pub(crate) order_by: Vec<Sort>,
    pub(crate) filter: Option<Ast>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Argument {
    pub(crate) name: Option<String>,
    pub(crate) value: Ast,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TypeName {
    pub(crate) name: Name,
    pub(crate) modifiers: Vec<i32>,
    pub(crate) array: bool,
    /// `t.c%TYPE` or `t%ROWTYPE` in plpgsql.
    pub(crate) percent: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Query {
    pub(crate) recursive: bool,
    pub(crate) with: Vec<Cte>,
    pub(crate) body: Body,
    pub(crate) order_by: Vec<Sort>,
    pub(crate) limit: Option<Ast>,
    pub(crate) offset: Option<Ast>,
    /// Where plpgsql puts the result.
    pub(crate) into: Option<Into>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Into {
    pub(crate) strict: bool,
    pub(crate) targets: Vec<Name>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cte {
    pub(crate) name: String,
    pub(crate) columns: Vec<String>,
    pub(crate) query: Query,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Body {
    Select(Box<Select>),
    Set(SetOperator, bool, Box<Query>, Box<Query>),
    Values(Vec<Vec<Ast>>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SetOperator {
    Union,
    Intersect,
    Except,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Select {
    /// None; DISTINCT; DISTINCT ON.
    pub(crate) distinct: Option<Vec<Ast>>,
    pub(crate) targets: Vec<Target>,
    pub(crate) from: Vec<From>,
    pub(crate) filter: Option<Ast>,
    pub(crate) group_by: Vec<Ast>,
    pub(crate) having: Option<Ast>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Target {
    pub(crate) value: Ast,
    pub(crate) alias: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Alias {
    pub(crate) name: Option<String>,
    pub(crate) columns: Vec<String>,
    /// Types of a column definition list; as long as `columns` if given.
    pub(crate) types: Vec<TypeName>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum From {
    Table(Name, Alias),
    Query(Box<Query>, Alias, bool),
    /// A function, whether WITH ORDINALITY.
    Function(Box<Call>, Alias, bool),
    Join(JoinKind, Box<Self>, Box<Self>, Condition),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JoinKind {
    Inner,
    Left,
    Right,
    Full,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Condition {
    None,
    On(Ast),
    Using(Vec<String>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sort {
    pub(crate) value: Ast,
    pub(crate) descending: bool,
    pub(crate) nulls_first: Option<bool>,
}
