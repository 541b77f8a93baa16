//! Random conditions as people write them in policies, of every kind that rls-semantics.md counts, and some that must be
//! left to Postgres. What Postgres does not take is thrown away by those who try it.

use super::dice::{Dice, Kind};
use super::forms::{LOOKUPS, PLACES, PLAIN};
use super::model::Table;

/// What a condition may name: expressions with their kinds.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope {
    pub(super) names: Vec<(String, Kind)>,
    /// The row itself, where functions may take it whole.
    pub(super) row: Option<String>,
}

impl Scope {
    /// The columns of a table under a name.
    pub(super) fn of(table: &Table, name: &str) -> Self {
        let columns = table.columns.iter();
        Self {
            names: columns
                .filter_map(|column| Some((format!("{name}.{}", column.name), column.kind?)))
                .collect(),
            row: None,
        }
    }

    fn with(&self, other: &Self) -> Self {
        Self {
            names: other.names.iter().chain(&self.names).cloned().collect(),
            row: None,
        }
    }
}

/// Writes conditions.
pub(super) struct Conditions<'a> {
    pub(super) dice: &'a mut Dice,
    /// Tables that may be looked into.
    pub(super) tables: Vec<&'a Table>,
    /// Whether helper functions may be called.
    pub(super) calls: bool,
    aliases: usize,
}

impl<'a> Conditions<'a> {
    pub(super) fn new(dice: &'a mut Dice, tables: Vec<&'a Table>, calls: bool) -> Self {
        Self {
            dice,
            tables,
            calls,
            aliases: 0,
        }
    }

    /// A condition over the scope.
    pub(super) fn condition(&mut self, scope: &Scope, depth: usize) -> String {
        loop {
            if let Some(text) = self.attempt(scope, depth) {
                return text;
            }
        }
    }

    fn attempt(&mut self, scope: &Scope, depth: usize) -> Option<String> {
        if depth > 0 && self.dice.chance(45) {
            let left = self.condition(scope, depth - 1);
            let right = self.condition(scope, depth - 1);
            return Some(match self.dice.below(10) {
                0..5 => format!("({left} or {right})"),
                5..8 => format!("({left} and {right})"),
                8 => format!("(not ({left}) or {right})"),
                _ => format!(
                    "case when {left} then {right} else {} end",
                    self.dice.chance(50)
                ),
            });
        }
        match self.dice.below(100) {
            0..3 => Some(self.dice.chance(60).to_string()),
            3..20 => self.own(scope),
            20..28 => self.claims(scope),
            28..34 => self.text(scope),
            34..40 => self.json(scope),
            40..46 => self.arrays(scope),
            46..50 => self.moments(scope),
            50..55 => self.numbers(scope),
            55..58 => self.bits(scope),
            58..61 => self.session(),
            61..72 if self.calls => self.call(scope),
            72..78 => self.form(scope, PLAIN),
            78..83 if !self.tables.is_empty() => self.form(scope, LOOKUPS),
            83..97 if depth > 0 && !self.tables.is_empty() => self.lookup(scope, depth - 1),
            97 if self.dice.chance(40) => self.odd(scope),
            _ => self.comparison(scope),
        }
    }

    /// One of a list of forms, with columns.
    fn form(&mut self, scope: &Scope, forms: &[&str]) -> Option<String> {
        let mut text = (*self.dice.pick(forms)).to_owned();
        for (place, kind) in PLACES {
            while text.contains(place) {
                let column = self.column(scope, kind)?;
                text = text.replacen(place, &column, 1);
            }
        }
        Some(format!("({text})"))
    }

    fn column(&mut self, scope: &Scope, kind: Kind) -> Option<String> {
        let found: Vec<&String> = scope
            .names
            .iter()
            .filter(|name| name.1 == kind)
            .map(|name| &name.0)
            .collect();
        if found.is_empty() {
            return None;
        }
        // What stands first belongs to the innermost table.
        let place = if self.dice.chance(60) {
            0
        } else {
            self.dice.below(found.len())
        };
        Some(found[place].clone())
    }

    fn uid(&mut self) -> String {
        (*self.dice.pick(&[
            "auth.uid()",
            "auth.uid()",
            "(select auth.uid())",
            "(select auth.uid())",
            "(auth.jwt() ->> 'sub')::uuid",
        ]))
        .to_owned()
    }

    /// An expression of a kind that is no plain column.
    fn scalar(&mut self, scope: &Scope, kind: Kind) -> Option<String> {
        Some(match kind {
            Kind::Uuid => match self.dice.below(8) {
                0 => kind.literal(self.dice),
                1 if self.calls => "app.my_uid()".to_owned(),
                2 => self.column(scope, kind)?,
                3 => format!("coalesce({}, {})", self.column(scope, kind)?, self.uid()),
                _ => self.uid(),
            },
            Kind::Int => match self.dice.below(14) {
                0 => "(auth.jwt() ->> 'team')::int".to_owned(),
                1 => "(select (auth.jwt() ->> 'team')::int)".to_owned(),
                2 => format!("{} + 1", self.column(scope, kind)?),
                3 => format!("length({})", self.column(scope, Kind::Text)?),
                4 => format!("coalesce({}, 3)", self.column(scope, kind)?),
                5 => format!("cardinality({})", self.column(scope, Kind::Texts)?),
                6 => format!(
                    "nullif({}, {})",
                    self.column(scope, kind)?,
                    self.dice.below(7)
                ),
                7 if self.calls => format!("app.safe_int({})", self.scalar(scope, Kind::Text)?),
                8 if self.calls => format!("app.weight({})", self.scalar(scope, Kind::Uuid)?),
                9 => self.column(scope, kind)?,
                10 => format!("abs({} - 3)", self.column(scope, kind)?),
                _ => kind.literal(self.dice),
            },
            Kind::Text => match self.dice.below(14) {
                0 => "auth.jwt() ->> 'email'".to_owned(),
                1 => "(auth.jwt() -> 'app_metadata' ->> 'kind')".to_owned(),
                2 => "auth.role()".to_owned(),
                3 => format!("lower({})", self.column(scope, kind)?),
                4 => format!("{} ->> 'kind'", self.column(scope, Kind::Json)?),
                5 => format!("split_part({}, '/', 1)", self.column(scope, kind)?),
                6 => format!("coalesce({}, 'a')", self.column(scope, kind)?),
                7 => "current_setting('app.never', true)".to_owned(),
                8 if self.calls => format!("app.role_in({})", self.scalar(scope, Kind::Int)?),
                9 => format!("{}::text", self.scalar(scope, Kind::Uuid)?),
                10 => format!("({})[1]", self.column(scope, Kind::Texts)?),
                11 => self.column(scope, kind)?,
                _ => kind.literal(self.dice),
            },
            Kind::Texts if self.calls && self.dice.chance(20) => "app.words()".to_owned(),
            Kind::Bool
            | Kind::Json
            | Kind::Texts
            | Kind::Uuids
            | Kind::Moment
            | Kind::Numeric
            | Kind::Bits
            | Kind::Level => kind.literal(self.dice),
        })
    }

    fn own(&mut self, scope: &Scope) -> Option<String> {
        Some(match self.dice.below(10) {
            0..4 => {
                let owner = self.column(scope, Kind::Uuid)?;
                format!("{owner} = {}", self.uid())
            }
            4 => {
                let owner = self.column(scope, Kind::Uuid)?;
                format!("{} is not distinct from {owner}", self.uid())
            }
            5 => self.column(scope, Kind::Bool)?,
            6 => format!(
                "coalesce({}, {})",
                self.column(scope, Kind::Bool)?,
                self.dice.chance(50)
            ),
            7 => {
                let tests = [
                    "is true",
                    "is not true",
                    "is null",
                    "is not false",
                    "is false",
                ];
                format!(
                    "{} {}",
                    self.column(scope, Kind::Bool)?,
                    self.dice.pick(&tests)
                )
            }
            8 => {
                let (name, _) = self.dice.pick(&scope.names).clone();
                format!("{name} is {}null", self.dice.pick(&["", "not "]))
            }
            _ => format!(
                "{} = any ({})",
                self.uid(),
                self.column(scope, Kind::Uuids)?
            ),
        })
    }

    fn comparison(&mut self, scope: &Scope) -> Option<String> {
        let kinds = [
            Kind::Int,
            Kind::Int,
            Kind::Text,
            Kind::Text,
            Kind::Uuid,
            Kind::Numeric,
            Kind::Level,
            Kind::Moment,
        ];
        let kind = *self.dice.pick(&kinds);
        let left = self.column(scope, kind)?;
        let right = self.scalar(scope, kind)?;
        let operators: &[&str] = match kind {
            Kind::Text | Kind::Uuid => &["=", "=", "=", "<>", "is distinct from"],
            _ => &["=", "=", "<>", "<", ">=", ">", "<=", "is distinct from"],
        };
        Some(match self.dice.below(8) {
            0 => {
                let items: Vec<String> = (0..3).map(|_| kind.literal(self.dice)).collect();
                format!(
                    "{left} {}in ({})",
                    self.dice.pick(&["", "", "not "]),
                    items.join(", ")
                )
            }
            1 if kind != Kind::Text => {
                format!("{left} between {} and {right}", kind.literal(self.dice))
            }
            2 => format!("{left} in ({}, null)", kind.literal(self.dice)),
            _ => format!("{left} {} {right}", self.dice.pick(operators)),
        })
    }

    fn claims(&mut self, scope: &Scope) -> Option<String> {
        Some(match self.dice.below(10) {
            0 => format!(
                "(auth.jwt() ->> 'team')::int = {}",
                self.column(scope, Kind::Int)?
            ),
            1 => format!(
                "(auth.jwt() ->> 'team') = {}::text",
                self.column(scope, Kind::Int)?
            ),
            2 => format!(
                "auth.jwt() -> 'app_metadata' -> 'roles' ? {}",
                self.scalar(scope, Kind::Text)?
            ),
            3 => format!(
                "(auth.jwt() -> 'app_metadata' -> 'teams') @> to_jsonb({})",
                self.column(scope, Kind::Int)?
            ),
            4 => format!(
                "(auth.jwt() #>> '{{app_metadata,kind}}') = {}",
                self.column(scope, Kind::Text)?
            ),
            5 => format!(
                "coalesce(auth.jwt() ->> 'email', 'nobody') = {}",
                self.column(scope, Kind::Text)?
            ),
            6 => format!(
                "(current_setting('request.jwt.claims', true)::jsonb ->> 'sub') = {}::text",
                self.column(scope, Kind::Uuid)?
            ),
            7 => "auth.jwt() ? 'email'".to_owned(),
            8 => format!(
                "jsonb_typeof(auth.jwt() -> 'team') = '{}'",
                self.dice.pick(&["number", "string", "null"])
            ),
            _ => format!(
                "auth.role() = '{}'",
                self.dice.pick(&["authenticated", "anon", "staff"])
            ),
        })
    }

    fn text(&mut self, scope: &Scope) -> Option<String> {
        let text = self.column(scope, Kind::Text)?;
        Some(match self.dice.below(9) {
            0 => format!(
                "{text} like '{}'",
                self.dice.pick(&["a%", "%e%", "_", "a/%", "%"])
            ),
            1 => format!(
                "{text} ilike '{}'",
                self.dice.pick(&["A%", "%OPEN%", "MEM_ER"])
            ),
            2 => format!("starts_with({text}, '{}')", self.dice.word()),
            3 => format!("split_part({text}, '/', 2) = auth.uid()::text"),
            4 => format!(
                "{text} ~ '{}'",
                self.dice.pick(&["^a", "^[a-m]+$", "b$", "^[0-9]{1,3}$"])
            ),
            5 => format!("left({text}, 1) = '{}'", self.dice.pick(&["a", "o", "d"])),
            6 => format!(
                "position('{}' in {text}) > 0",
                self.dice.pick(&["/", "a", "e"])
            ),
            7 => format!("{text} || '!' = '{}!'", self.dice.word()),
            _ => format!("upper({text}) <> '{}'", self.dice.pick(&["OPEN", "A", "B"])),
        })
    }

    fn json(&mut self, scope: &Scope) -> Option<String> {
        let json = self.column(scope, Kind::Json)?;
        Some(match self.dice.below(10) {
            0 | 1 => format!("{json} ->> 'kind' = {}", self.scalar(scope, Kind::Text)?),
            2 => format!("{json} @> '{{\"kind\": \"{}\"}}'", self.dice.word()),
            3 => format!(
                "{json} ? '{}'",
                self.dice.pick(&["kind", "n", "who", "deep"])
            ),
            4 => format!("{json} -> 'who' ? (auth.uid())::text"),
            5 => format!("({json} #>> '{{deep,on}}')::boolean"),
            6 => format!("coalesce(({json} -> 'deep' ->> 'on')::boolean, false)"),
            7 => format!(
                "case when jsonb_typeof({json} -> 'n') = 'number' then ({json} ->> 'n')::int > 2 else false end"
            ),
            8 => format!("jsonb_array_length({json} -> 'who') = 2"),
            // Raises on texts that are no numbers.
            _ if self.dice.chance(30) => format!("({json} ->> 'n')::int > {}", self.dice.below(5)),
            _ => format!("{json} ?| array['kind', 'deep']"),
        })
    }

    fn arrays(&mut self, scope: &Scope) -> Option<String> {
        let texts = self.column(scope, Kind::Texts)?;
        Some(match self.dice.below(7) {
            0 => format!("{} = any ({texts})", self.scalar(scope, Kind::Text)?),
            1 => format!("{texts} && {}", self.scalar(scope, Kind::Texts)?),
            2 => format!("{texts} @> array['{}']", self.dice.word()),
            3 => format!("{texts}[1] = '{}'", self.dice.word()),
            4 => format!("array_length({texts}, 1) > {}", self.dice.below(3)),
            5 => format!("'{}' <> all ({texts})", self.dice.word()),
            _ => format!(
                "exists (select 1 from unnest({texts}) t (w) where t.w = {})",
                self.scalar(scope, Kind::Text)?
            ),
        })
    }

    fn moments(&mut self, scope: &Scope) -> Option<String> {
        let at = self.column(scope, Kind::Moment)?;
        Some(match self.dice.below(6) {
            0 => format!("{at} > now()"),
            1 => format!("{at} <= now() - interval '1 day'"),
            2 => format!("{at}::date < current_date"),
            3 => format!("date_part('year', {at}) = 2025"),
            4 => format!("{at} between now() - interval '100 years' and now()"),
            _ => format!("coalesce({at}, now()) >= now()"),
        })
    }

    fn numbers(&mut self, scope: &Scope) -> Option<String> {
        Some(match self.dice.below(7) {
            0 => format!(
                "{} * 2 > {}",
                self.column(scope, Kind::Numeric)?,
                self.dice.below(7)
            ),
            1 => format!("{} % 2 = 0", self.column(scope, Kind::Int)?),
            2 => format!(
                "round({}) = {}",
                self.column(scope, Kind::Numeric)?,
                self.dice.below(4)
            ),
            3 => format!(
                "{} + {} > 4",
                self.column(scope, Kind::Int)?,
                self.column(scope, Kind::Int)?
            ),
            4 => format!(
                "{}::numeric < {}",
                self.column(scope, Kind::Int)?,
                self.column(scope, Kind::Numeric)?
            ),
            // Raises on zero.
            5 if self.dice.chance(30) => format!("10 / {} > 2", self.column(scope, Kind::Int)?),
            _ => format!("greatest({}, 2) < 5", self.column(scope, Kind::Int)?),
        })
    }

    fn bits(&mut self, scope: &Scope) -> Option<String> {
        let bits = self.column(scope, Kind::Bits)?;
        Some(match self.dice.below(4) {
            0 => format!("({bits} & B'00000101') = B'00000101'"),
            1 => format!("({bits} | B'00001111') <> B'11111111'"),
            2 => format!("get_bit({bits}, {}) = 1", self.dice.below(8)),
            _ => format!("({bits}::int & {}) > 0", 1 << self.dice.below(8)),
        })
    }

    fn session(&mut self) -> Option<String> {
        Some(
            (*self.dice.pick(&[
                "current_user = 'authenticated'",
                "current_user <> 'anon'",
                "current_setting('app.never', true) is null",
                "coalesce(current_setting('app.never', true), '') = ''",
                "auth.uid() is not null",
                "(select auth.uid()) is not null",
                "current_setting('role') = 'staff'",
            ]))
            .to_owned(),
        )
    }

    fn call(&mut self, scope: &Scope) -> Option<String> {
        Some(match self.dice.below(11) {
            0 | 1 => format!("app.is_member({})", self.column(scope, Kind::Int)?),
            2 => "app.is_admin()".to_owned(),
            3 => "(select app.is_admin())".to_owned(),
            4 | 5 => format!(
                "{} in (select app.my_teams())",
                self.column(scope, Kind::Int)?
            ),
            6 => format!(
                "{} = any (array(select app.my_teams()))",
                self.column(scope, Kind::Int)?
            ),
            7 => format!(
                "app.knows({}, {})",
                self.scalar(scope, Kind::Uuid)?,
                self.column(scope, Kind::Uuid)?
            ),
            8 => format!(
                "app.role_in({}) = '{}'",
                self.column(scope, Kind::Int)?,
                self.dice.word()
            ),
            9 => match &scope.row {
                Some(row) => format!("app.sees_item({row})"),
                None => return None,
            },
            _ => format!(
                "app.weight({}) > {}",
                self.column(scope, Kind::Uuid)?,
                self.dice.below(3)
            ),
        })
    }

    /// What is not compiled.
    fn odd(&mut self, scope: &Scope) -> Option<String> {
        Some(match self.dice.below(3) {
            0 => "random() >= 0".to_owned(),
            1 => format!("md5({}) > '8'", self.column(scope, Kind::Text)?),
            _ => format!("{} ~ '(a).*\\1'", self.column(scope, Kind::Text)?),
        })
    }

    /// An equality between a table that is looked into and the outside.
    fn join(&mut self, inner: &Scope, outer: &Scope) -> Option<String> {
        let kind = *self
            .dice
            .pick(&[Kind::Uuid, Kind::Uuid, Kind::Int, Kind::Int, Kind::Text]);
        let left = self.column(inner, kind)?;
        let right = if self.dice.chance(60) {
            self.column(outer, kind)?
        } else {
            self.scalar(outer, kind)?
        };
        Some(format!("{left} = {right}"))
    }

    fn lookup(&mut self, outer: &Scope, depth: usize) -> Option<String> {
        let table = *self.dice.pick(&self.tables.clone());
        self.aliases += 1;
        let alias = format!("x{}", self.aliases);
        let inner = Scope::of(table, &alias);
        let mut terms = vec![self.join(&inner, outer)?];
        if self.dice.chance(60) {
            terms.push(self.join(&inner, outer)?);
        }
        if self.dice.chance(30) {
            let both = inner.with(outer);
            terms.push(self.condition(&both, depth));
        }
        let mut from = format!("app.{} {alias}", table.name);
        if self.dice.chance(20) {
            let second = *self.dice.pick(&self.tables.clone());
            self.aliases += 1;
            let name = format!("x{}", self.aliases);
            let joined = Scope::of(second, &name);
            let on = self.join(&joined, &inner)?;
            let how = self.dice.pick(&["join", "join", "left join"]);
            from = format!("{from} {how} app.{} {name} on {on}", second.name);
        }
        let condition = terms.join(" and ");
        let kind = *self
            .dice
            .pick(&[Kind::Uuid, Kind::Int, Kind::Int, Kind::Text]);
        Some(match self.dice.below(20) {
            0..6 => format!("exists (select 1 from {from} where {condition})"),
            6 | 7 => format!("not exists (select 1 from {from} where {condition})"),
            8..12 => format!(
                "{} in (select {} from {from} where {condition})",
                self.scalar_or_column(outer, kind)?,
                self.column(&inner, kind)?
            ),
            12 => format!(
                "{} not in (select {} from {from} where {condition})",
                self.scalar_or_column(outer, kind)?,
                self.column(&inner, kind)?
            ),
            13 => format!(
                "{} = any (array(select {} from {from} where {condition}))",
                self.scalar_or_column(outer, kind)?,
                self.column(&inner, kind)?
            ),
            14 => format!(
                "(select count(*) from {from} where {condition}) > {}",
                self.dice.below(2)
            ),
            15 => format!(
                "(select bool_or({}) from {from} where {condition})",
                self.column(&inner, Kind::Bool)?
            ),
            16 => format!(
                "(select max({}) from {from} where {condition}) > {}",
                self.column(&inner, Kind::Int)?,
                self.dice.below(5)
            ),
            17 => {
                let value = self.column(&inner, kind)?;
                format!(
                    "{} = (select {value} from {from} where {condition} order by {value} limit 1)",
                    self.scalar_or_column(outer, kind)?
                )
            }
            18 => {
                let value = self.column(&inner, kind)?;
                format!(
                    "{} in (select {value} from {from} where {condition} {} select {})",
                    self.scalar_or_column(outer, kind)?,
                    self.dice.pick(&["union", "union all", "except"]),
                    kind.literal(self.dice)
                )
            }
            _ => format!(
                "exists (with w as (select {} as v from {from} where {condition}) select 1 from w where w.v = {})",
                self.column(&inner, kind)?,
                self.scalar_or_column(outer, kind)?
            ),
        })
    }

    fn scalar_or_column(&mut self, scope: &Scope, kind: Kind) -> Option<String> {
        if self.dice.chance(60) {
            self.column(scope, kind)
        } else {
            self.scalar(scope, kind)
        }
    }
}
