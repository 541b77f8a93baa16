//! The database that a seed begins with, and random policies and functions.

use super::conditions::{Conditions, Scope};
use super::dice::{Dice, Kind};
use super::model::{Model, Table};

/// Roles, types, and who may do what; the same for every seed.
pub(super) const FRAME: &str = "
    create schema app;
    create role staff nologin inherit in role authenticated;
    create role guest nologin noinherit in role authenticated;
    create role keeper nologin;
    create role definer nologin;
    grant usage on schema app, auth to anon, authenticated, service_role, staff, guest, keeper, definer;
    grant execute on all functions in schema auth to public;
    create type app.level as enum ('low', 'mid', 'high');
    create schema probe;
    create table probe.known (id int primary key);
    insert into probe.known values (1);
    create table probe.asked (id bigint primary key);
    alter table probe.asked enable row level security;
    create policy p on probe.asked using (exists (select 1 from probe.known k where k.id = 1));
    grant usage on schema probe to authenticated;
    grant select on all tables in schema probe to authenticated;
    alter publication supabase_realtime add table probe.known, probe.asked;
";

/// What is asked of Postgres: for each identity, each question's rows. Nothing for rows that are hidden, `v` for those
/// that are visible, `!SQLSTATE` where a SELECT of that row raises. A lone row is not asked for once more: until the end of a
/// transaction PL/pgSQL evaluates an expression that has raised in another way, which may not raise.
pub(super) const ASK: &str = r"
    create schema oracle;
    create function oracle.ask(identities jsonb, questions jsonb) returns jsonb language plpgsql as $$
    declare
      identity jsonb; question jsonb; place jsonb; seen text[]; answers jsonb; all_answers jsonb := '[]'; one text;
    begin
      for identity in select * from jsonb_array_elements(identities) loop
        answers := '[]';
        perform set_config('request.jwt.claims', identity ->> 'claims', true), set_config('role', identity ->> 'role', true);
        for question in select * from jsonb_array_elements(questions) loop
          begin
            execute question ->> 'all' into seen;
            for place in select * from jsonb_array_elements(question -> 'rows') loop
              answers := answers || to_jsonb(case when place ->> 'key' = any (seen) then 'v' else '' end);
            end loop;
          exception when others then
            if jsonb_array_length(question -> 'rows') = 1 then
              answers := answers || to_jsonb('!' || sqlstate);
              continue;
            end if;
            for place in select * from jsonb_array_elements(question -> 'rows') loop
              begin
                execute place ->> 'one' into one;
                answers := answers || to_jsonb(coalesce(one, ''));
              exception when others then
                answers := answers || to_jsonb('!' || sqlstate);
              end;
            end loop;
          end;
        end loop;
        perform set_config('role', 'none', true);
        all_answers := all_answers || jsonb_build_array(answers);
      end loop;
      return all_answers;
    end $$;
";

const READERS: &str = "anon, authenticated, service_role, staff, guest, keeper, definer";

/// Columns that the tables with many columns choose from.
const POOL: [(&str, &str); 14] = [
    ("owner", "uuid"),
    ("other", "uuid"),
    ("team", "int"),
    ("rank", "int"),
    ("state", "text"),
    ("note", "text"),
    ("open", "boolean"),
    ("data", "jsonb"),
    ("tags", "text[]"),
    ("people", "uuid[]"),
    ("at", "timestamptz"),
    ("score", "numeric"),
    ("flags", "bit(8)"),
    ("level", "app.level"),
];

/// Statements that make the tables.
pub(super) fn tables(dice: &mut Dice) -> Vec<String> {
    let mut made = vec![
        format!(
            "create table app.member (rid bigint, who uuid, team int, role text, active boolean, note text{})",
            dice.pick(&[", primary key (who, team)", ", id int primary key default (random() * 1e9)::int", ", primary key (team, who)"])
        ),
        "create table app.team (rid bigint, id int primary key, parent int, name text, public boolean, owner uuid, level app.level)".to_owned(),
        "create table app.profile (rid bigint, id uuid primary key, role text, team int, prefs jsonb, blocked uuid[])".to_owned(),
        "create table app.share (rid bigint, key text primary key, doc int, who uuid, can text[], until timestamptz)".to_owned(),
        "create table app.hidden (rid bigint, id int primary key, who uuid, team int)".to_owned(),
    ];
    for (name, key) in [
        ("items", "id int primary key"),
        ("docs", "id uuid primary key"),
        ("pages", "slug text primary key"),
        ("entries", "org int, no int, primary key (org, no)"),
        ("bare", "id bigint primary key"),
        ("logs", "id int, kind text, primary key (id, kind)"),
    ] {
        let mut columns = vec!["rid bigint".to_owned()];
        let skipped = dice.below(POOL.len());
        for place in 0..POOL.len() {
            let (column, type_name) = POOL[(place + skipped) % POOL.len()];
            if dice.chance(75) {
                columns.push(format!("{column} {type_name}"));
            }
        }
        if dice.chance(20) {
            columns.push("twice bigint generated always as (rid * 2) stored".to_owned());
        }
        let at = dice.below(columns.len());
        columns.insert(at, key.to_owned());
        let tail = if name == "logs" {
            " partition by list (kind)"
        } else {
            ""
        };
        made.push(format!(
            "create table app.{name} ({}){tail}",
            columns.join(", ")
        ));
    }
    made.push(
        "create table app.logs_a partition of app.logs for values in ('a');
         create table app.logs_b partition of app.logs for values in ('b', 'c')"
            .to_owned(),
    );
    made.push(
        "create view app.active as select m.who, m.team from app.member m where m.active"
            .to_owned(),
    );
    for name in [
        "member", "items", "docs", "team", "entries", "profile", "share", "pages", "logs_a",
    ] {
        if dice.chance(40) {
            made.push(format!("alter table app.{name} replica identity full"));
        }
    }
    made.push(format!(
        "grant select on all tables in schema app to {READERS}"
    ));
    made.push("alter publication supabase_realtime add table app.member, app.team, app.profile, app.share, app.items, app.docs, app.pages, app.entries, app.bare, app.logs".to_owned());
    for name in ["items", "team", "pages"] {
        if dice.chance(25) {
            made.push(format!("alter table app.{name} owner to keeper"));
        }
    }
    made
}

/// Tables with row-level security from the start: all but one, and the others that look-ups meet.
pub(super) fn row_security(dice: &mut Dice, model: &Model) -> Vec<String> {
    let mut made = Vec::new();
    for table in &model.tables {
        let percent = if table.is_base() { 50 } else { 95 };
        if table.name != "bare" && dice.chance(percent) {
            made.push(format!(
                "alter table app.{} enable row level security",
                table.name
            ));
            if dice.chance(15) {
                made.push(format!(
                    "alter table app.{} force row level security",
                    table.name
                ));
            }
        }
    }
    made
}

/// Tables that the policies of a table may look into.
fn reachable<'a>(dice: &mut Dice, model: &'a Model, from: &Table) -> Vec<&'a Table> {
    let wide = dice.chance(8);
    let hidden = dice.chance(4);
    let base = from.is_base();
    model
        .tables
        .iter()
        .filter(|table| {
            if table.is_base() {
                !base || dice.chance(15)
            } else {
                !base && (wide || table.name == "logs" && dice.chance(20))
            }
        })
        .filter(|table| table.name != "hidden" || hidden)
        .collect()
}

/// A condition for a policy of the table.
pub(super) fn qual(dice: &mut Dice, model: &Model, table: &Table) -> String {
    let tables = reachable(dice, model, table);
    let mut scope = Scope::of(table, &table.name);
    if table.name == "items" {
        scope.row = Some("items".to_owned());
    }
    let depth = dice.below(4);
    Conditions::new(dice, tables, !table.is_base()).condition(&scope, depth)
}

/// A condition as most policies have it, which shows some rows to some people: a verdict that goes wrong is seen there.
fn telling(dice: &mut Dice, table: &Table) -> Option<String> {
    let name = &table.name;
    let conditions: &[&str] = match name.as_str() {
        "member" => &[
            "true",
            "true",
            "who = auth.uid()",
            "team in (1, 2, 3, 4, 5)",
        ],
        "team" => &[
            "true",
            "true",
            "public",
            "owner is distinct from auth.uid()",
        ],
        "profile" | "hidden" => &["true"],
        "share" => &["true", "who = auth.uid()"],
        _ => &[
            "owner = auth.uid()",
            "auth.uid() = any (people)",
            "open",
            "rank < 4",
            "team in (select m.team from app.member m where m.who = auth.uid())",
            "team in (select m.team from app.member m where m.who = auth.uid() and m.active)",
            "exists (select from app.member m where m.team = rank and m.who = auth.uid())",
            "exists (select from app.team t where t.id = team and t.public)",
            "rank not in (select s.doc from app.share s where s.who = auth.uid() and s.doc is not null)",
            "exists (select from app.profile p where p.id = owner and p.role = 'admin')",
            "(select p.team from app.profile p where p.id = auth.uid()) = team",
        ],
    };
    // Tables have some of these columns each.
    let pool = POOL.iter().map(|(column, _)| *column);
    let missing: Vec<&str> = pool
        .filter(|column| table.columns.iter().all(|known| known.name != *column))
        .collect();
    let own = |condition: &&&str| {
        let mut words = condition
            .split(|letter: char| !letter.is_alphanumeric() && letter != '.' && letter != '_');
        table.is_base() || !words.any(|word| missing.contains(&word))
    };
    let possible: Vec<&&str> = conditions.iter().filter(own).collect();
    (!possible.is_empty()).then(|| (**dice.pick(&possible)).to_owned())
}

/// A statement that makes a policy.
pub(super) fn policy(dice: &mut Dice, model: &Model, table: &Table, name: &str) -> String {
    let restrictive = dice.chance(20);
    let how = if restrictive { "as restrictive " } else { "" };
    let command = dice.pick(&["", "for all ", "for select ", "for select ", "for select "]);
    let command = if dice.chance(4) {
        "for update "
    } else {
        command
    };
    let to = dice.pick(&[
        "",
        "to public ",
        "to authenticated ",
        "to authenticated ",
        "to authenticated, anon ",
        "to staff ",
        "to anon, keeper ",
        "to guest, authenticated ",
    ]);
    let condition = match telling(dice, table) {
        Some(condition) if dice.chance(40) => condition,
        _ => {
            let condition = qual(dice, model, table);
            // What is restrictive should leave something over.
            if restrictive && dice.chance(60) {
                format!("{condition} or {}", qual(dice, model, table))
            } else {
                condition
            }
        }
    };
    format!(
        "create policy {name} on app.{} {how}{command}{to}using ({condition})",
        table.name
    )
}

/// A function that conditions may call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Helper {
    name: &'static str,
    arguments: &'static [(&'static str, Kind)],
    signature: &'static str,
    result: &'static str,
    kind: Kind,
    is_set: bool,
}

const fn helper(
    name: &'static str,
    signature: &'static str,
    arguments: &'static [(&'static str, Kind)],
    result: &'static str,
    kind: Kind,
) -> Helper {
    Helper {
        name,
        arguments,
        signature,
        result,
        kind,
        is_set: false,
    }
}

pub(super) const HELPERS: [Helper; 10] = [
    helper(
        "is_member",
        "the_team int",
        &[("the_team", Kind::Int)],
        "boolean",
        Kind::Bool,
    ),
    helper("is_admin", "", &[], "boolean", Kind::Bool),
    helper(
        "knows",
        "a uuid, b uuid",
        &[("a", Kind::Uuid), ("b", Kind::Uuid)],
        "boolean",
        Kind::Bool,
    ),
    helper(
        "role_in",
        "the_team int",
        &[("the_team", Kind::Int)],
        "text",
        Kind::Text,
    ),
    helper(
        "weight",
        "the_user uuid",
        &[("the_user", Kind::Uuid)],
        "int",
        Kind::Int,
    ),
    helper("my_uid", "", &[], "uuid", Kind::Uuid),
    helper("safe_int", "t text", &[("t", Kind::Text)], "int", Kind::Int),
    helper("words", "", &[], "text[]", Kind::Texts),
    Helper {
        name: "my_teams",
        arguments: &[],
        signature: "",
        result: "setof int",
        kind: Kind::Int,
        is_set: true,
    },
    // The argument is the row; its columns are looked at by the body.
    helper("sees_item", "r app.items", &[], "boolean", Kind::Bool),
];

impl Helper {
    /// A statement that makes it, or gives it another body.
    pub(super) fn create(&self, dice: &mut Dice, model: &Model) -> String {
        let is_row = self.name == "sees_item";
        let mut scope = Scope::default();
        for (name, kind) in self.arguments {
            scope.names.push(((*name).to_owned(), *kind));
        }
        if is_row && let Some(items) = model.table("items") {
            scope = Scope::of(items, "(r)");
        }
        let tables: Vec<&Table> = model
            .tables
            .iter()
            .filter(|table| table.is_base() && (table.name != "hidden" || dice.chance(5)))
            .collect();
        let (language, body) = if dice.chance(55) {
            ("sql", self.sql(dice, &tables, &scope))
        } else {
            ("plpgsql", self.plpgsql(dice, &tables, &scope))
        };
        // Bodies that are bound when they are made.
        let is_bound = language == "sql" && !self.is_set && dice.chance(20);
        let volatility = dice.pick(&["stable", "stable", "stable", "", "volatile"]);
        let definer = if dice.chance(55) {
            "security definer set search_path = ''"
        } else {
            ""
        };
        let strict = if dice.chance(10) { "strict" } else { "" };
        if is_bound {
            return format!(
                "create or replace function app.{}({}) returns {} language sql {volatility} {strict} {definer} begin atomic {body}; end",
                self.name, self.signature, self.result
            );
        }
        format!(
            "create or replace function app.{}({}) returns {} language {language} {volatility} {strict} {definer} as $body$ {body} $body$",
            self.name, self.signature, self.result
        )
    }

    fn sql(&self, dice: &mut Dice, tables: &[&Table], scope: &Scope) -> String {
        let mut conditions = Conditions::new(dice, tables.to_vec(), false);
        if self.is_set {
            let table = tables
                .iter()
                .find(|table| table.name == "member")
                .expect("it is never dropped");
            let inner = Scope::of(table, "m");
            let condition = conditions.condition(&inner, 1);
            return format!(
                "select m.team from app.member m where m.who = auth.uid() and ({condition})"
            );
        }
        match self.name {
            "role_in" => format!(
                "select m.role from app.member m where m.who = auth.uid() and m.team = the_team order by m.role {}limit 1",
                conditions.dice.pick(&["", "desc "])
            ),
            "weight" => match conditions.dice.below(3) {
                0 => "select count(*)::int from app.member m where m.who = the_user".to_owned(),
                1 => "select coalesce(max(m.team), 0) from app.member m where m.who = the_user and m.active".to_owned(),
                _ => "select p.team from app.profile p where p.id = the_user".to_owned(),
            },
            "my_uid" => (*conditions.dice.pick(&[
                "select auth.uid()",
                "select nullif(current_setting('request.jwt.claims', true)::jsonb ->> 'sub', '')::uuid",
                "select coalesce(auth.uid(), '10000000-0000-4000-8000-000000000001'::uuid)",
            ]))
            .to_owned(),
            "safe_int" => (*conditions.dice.pick(&[
                "select case when t ~ '^[0-9]{1,3}$' then t::int else null end",
                "select length(t)",
                "select nullif(t, '')::int",
            ]))
            .to_owned(),
            "words" => (*conditions.dice.pick(&[
                "select array['a', 'open']",
                "select array_agg(m.role order by m.role) from app.member m where m.who = auth.uid()",
                "select array(select jsonb_array_elements_text(coalesce(auth.jwt() -> 'app_metadata' -> 'roles', '[]')))",
            ]))
            .to_owned(),
            _ => {
                // Functions without arguments need something to talk about.
                let depth = if scope.names.is_empty() { 2 } else { 1 };
                let scope = if scope.names.is_empty() { who() } else { scope.clone() };
                format!("select {}", conditions.condition(&scope, depth))
            }
        }
    }

    fn plpgsql(&self, dice: &mut Dice, tables: &[&Table], scope: &Scope) -> String {
        let swallow = dice.chance(40);
        let handler = |value: &str| {
            if swallow {
                format!("exception when others then return {value};")
            } else {
                String::new()
            }
        };
        match (self.name, self.kind) {
            ("my_teams", _) => "begin return query select m.team from app.member m where m.who = auth.uid() and m.active; end".to_owned(),
            ("safe_int", _) => format!("begin return t::int; {} end", handler("null")),
            ("my_uid", _) => format!("begin return auth.uid(); {} end", handler("null")),
            ("words", _) => "declare found_words text[]; begin select array_agg(m.role order by m.role) into found_words from app.member m where m.who = auth.uid(); return coalesce(found_words, '{}'); end".to_owned(),
            ("role_in", _) => format!(
                "declare v text; begin select m.role into v from app.member m where m.who = auth.uid() and m.team = the_team order by m.role limit 1; if not found then return {}; end if; return v; end",
                dice.pick(&["null", "'a'", "''"])
            ),
            ("weight", _) => format!(
                "declare n int := 0; begin select count(*) into n from app.member m where m.who = the_user; if n > 2 then return 2; elsif n = 0 then return {}; end if; return n; end",
                dice.pick(&["null", "0", "1"])
            ),
            _ => {
                let mut conditions = Conditions::new(dice, tables.to_vec(), false);
                let scope = if scope.names.is_empty() { who() } else { scope.clone() };
                let first = conditions.condition(&scope, 1);
                let second = conditions.condition(&scope, 1);
                match conditions.dice.below(5) {
                    3 => format!(
                        "declare m record; begin for m in select x.team, x.active from app.member x where x.who = auth.uid() order by x.team loop if m.active then return {first}; end if; end loop; return {second}; {} end",
                        handler("false")
                    ),
                    4 => format!(
                        "declare p app.profile; begin select * into p from app.profile x where x.id = auth.uid(); if not found then return {second}; end if; return p.team > 2 or {first}; {} end",
                        handler("null")
                    ),
                    0 => format!("begin if {first} then return {second}; end if; return {}; {} end", conditions.dice.chance(40), handler("false")),
                    1 => format!("declare ok boolean; begin ok := {first}; if ok is null then return {second}; end if; return ok; {} end", handler("false")),
                    _ => format!("declare ok boolean := false; begin select true into ok where {first}; if not coalesce(ok, false) then return false; end if; return {second}; {} end", handler("null")),
                }
            }
        }
    }
}

/// The subscriber as something to compare with.
fn who() -> Scope {
    Scope {
        names: vec![
            ("auth.uid()".to_owned(), Kind::Uuid),
            ("auth.role()".to_owned(), Kind::Text),
        ],
        row: None,
    }
}
