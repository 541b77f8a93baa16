//! Random transactions: rows, and changes of who may see them.

use std::collections::BTreeMap;

use super::claims::ROLES;
use super::dice::{Dice, Kind, USERS};
use super::model::{Column, Model, Table};
use super::schema::{self, HELPERS};

/// Rows by table, as `rid`.
pub(super) type Rids = BTreeMap<String, Vec<i64>>;

/// Numbers that are used once.
#[derive(Debug)]
pub(super) struct Numbers {
    rid: i64,
    key: i64,
    name: i64,
    /// How many times the usual statements a transaction has.
    times: usize,
}

impl Numbers {
    pub(super) const fn new(times: usize) -> Self {
        Self {
            rid: 0,
            key: 0,
            name: 0,
            times,
        }
    }

    fn rid(&mut self) -> i64 {
        self.rid += 1;
        self.rid
    }

    fn key(&mut self) -> i64 {
        self.key += 1;
        1000 + self.key
    }

    pub(super) fn name(&mut self, prefix: char) -> String {
        self.name += 1;
        format!("{prefix}{}", self.name)
    }
}

/// What a transaction does, in this order.
#[derive(Clone, Debug, Default)]
pub(super) struct Script {
    /// Before the rows are looked at for what they were.
    pub(super) first: Vec<String>,
    pub(super) rows: Vec<String>,
    /// Changes of who may see rows that leave the rows alone.
    pub(super) last: Vec<String>,
}

impl Script {
    /// Whether it does more than change rows: it alters the catalogs, as a TRUNCATE does as well.
    pub(super) const fn does_more(&self) -> bool {
        !(self.first.is_empty() && self.last.is_empty())
    }

    pub(super) fn changes_schema(&self) -> bool {
        self.first
            .iter()
            .chain(&self.last)
            .any(|statement| !statement.starts_with("truncate"))
    }
}

/// A value for a column of a new row, or of a row that changes.
fn value(dice: &mut Dice, table: &Table, column: &Column) -> Option<String> {
    let is_key = table.key.contains(&column.name);
    let kind = column.kind?;
    if !is_key && !column.not_null && dice.chance(12) {
        return Some("null".to_owned());
    }
    Some(match (table.name.as_str(), column.name.as_str(), kind) {
        ("logs", "kind", _) => format!("'{}'", dice.pick(&["a", "a", "b", "c"])),
        ("logs_a", "kind", _) => "'a'".to_owned(),
        ("logs_b", "kind", _) => format!("'{}'", dice.pick(&["b", "c"])),
        ("team" | "hidden", "id", _) => dice.below(8).to_string(),
        ("entries", "org", _) => dice.below(3).to_string(),
        (_, _, Kind::Int) if is_key && table.name != "member" => dice.below(30).to_string(),
        (_, _, Kind::Uuid) if is_key && table.name == "docs" => {
            format!("'d0000000-0000-4000-8000-0000000000{:02}'", dice.below(30))
        }
        (_, _, Kind::Text) if is_key => format!("'{}-{}'", dice.word(), dice.below(8)),
        // Large enough to be stored apart, so that updates leave it out.
        (_, "note", Kind::Text) if dice.chance(6) => {
            format!(
                "(select string_agg(md5((i * {})::text), '') from generate_series(1, 150) i)",
                dice.below(9)
            )
        }
        _ => kind.literal(dice),
    })
}

/// A key that no row has had.
fn fresh(numbers: &mut Numbers, column: &Column) -> Option<String> {
    let number = numbers.key();
    Some(match column.kind? {
        Kind::Int => number.to_string(),
        Kind::Text => format!("'k{number}'"),
        Kind::Uuid => format!("'e0000000-0000-4000-8000-{number:012}'"),
        _ => return None,
    })
}

fn insert(dice: &mut Dice, table: &Table, numbers: &mut Numbers, rids: &mut Vec<i64>) -> String {
    let mut columns = vec!["rid".to_owned()];
    let chosen: Vec<&Column> = table
        .columns
        .iter()
        .filter(|column| {
            !column.generated
                && column.name != "rid"
                && (column.kind.is_some())
                && (table.key.contains(&column.name) || dice.chance(90))
        })
        .collect();
    columns.extend(chosen.iter().map(|column| column.name.clone()));
    let count = 1 + dice.below(3);
    let mut tuples = Vec::new();
    for _ in 0..count {
        let rid = numbers.rid();
        rids.push(rid);
        let mut values = vec![rid.to_string()];
        for column in &chosen {
            values.push(value(dice, table, column).unwrap_or_else(|| "null".to_owned()));
        }
        tuples.push(format!("({})", values.join(", ")));
    }
    format!(
        "insert into app.{} ({}) values {} on conflict do nothing",
        table.name,
        columns.join(", "),
        tuples.join(", ")
    )
}

fn update(dice: &mut Dice, table: &Table, numbers: &mut Numbers, rids: &[i64]) -> Option<String> {
    let mut chosen: Vec<&Column> = Vec::new();
    let free: Vec<&Column> = table
        .columns
        .iter()
        .filter(|column| {
            !column.generated
                && column.name != "rid"
                && !table.key.contains(&column.name)
                && column.kind.is_some()
        })
        .collect();
    for _ in 0..1 + dice.below(3) {
        if let Some(column) = (!free.is_empty()).then(|| *dice.pick(&free))
            && chosen.iter().all(|known| known.name != column.name)
        {
            chosen.push(column);
        }
    }
    let mut sets: Vec<String> = chosen
        .iter()
        .map(|column| Some(format!("{} = {}", column.name, value(dice, table, column)?)))
        .collect::<Option<_>>()?;
    let mut count = 1 + dice.below(3);
    if dice.chance(10) {
        count = 1;
        let key = dice.pick(&table.key).clone();
        let column = table.columns.iter().find(|column| column.name == key)?;
        let moved = match (table.name.as_str(), key.as_str()) {
            ("logs", "kind") => value(dice, table, column)?,
            ("logs_a" | "logs_b", "kind") => return None,
            _ => fresh(numbers, column)?,
        };
        sets.push(format!("{key} = {moved}"));
    }
    let rids: Vec<String> = (0..count).map(|_| dice.pick(rids).to_string()).collect();
    Some(format!(
        "update app.{} set {} where rid in ({})",
        table.name,
        sets.join(", "),
        rids.join(", ")
    ))
}

/// Many rows of a table that others look into, so that many verdicts on the rows of the same transaction turn.
fn upheaval(dice: &mut Dice, table: &Table) -> Option<String> {
    let statement = match table.name.as_str() {
        "member" => *dice.pick(&[
            "update app.member set active = not active",
            "update app.member set role = 'admin' where active",
            "delete from app.member where team < 3",
            "delete from app.member where who in (select id from app.profile where team < 3)",
        ]),
        "team" => *dice.pick(&[
            "update app.team set public = not public",
            "update app.team set parent = (parent + 1) % 7",
            "update app.team set owner = '10000000-0000-4000-8000-000000000001'",
        ]),
        "profile" => *dice.pick(&[
            "update app.profile set team = (team + 1) % 7",
            "update app.profile set role = 'admin', blocked = '{}'",
        ]),
        "share" => *dice.pick(&[
            "update app.share set until = 'infinity'",
            "update app.share set who = '20000000-0000-4000-8000-000000000002'",
            "delete from app.share where doc < 3",
        ]),
        _ => return None,
    };
    Some(statement.to_owned())
}

/// Rows to begin with.
pub(super) fn first_rows(dice: &mut Dice, model: &Model, numbers: &mut Numbers) -> Vec<String> {
    let mut made = Vec::new();
    for table in model.tables.iter().filter(|table| !table.is_partition) {
        let count = if matches!(table.name.as_str(), "member" | "share") {
            8
        } else {
            4
        };
        for _ in 0..count {
            made.push(insert(dice, table, numbers, &mut Vec::new()));
        }
    }
    for user in USERS {
        made.push(format!(
            "insert into app.profile (rid, id, role, team, prefs) values ({}, '{user}', '{}', {}, '{}') on conflict do nothing",
            numbers.rid(),
            dice.word(),
            dice.below(7),
            super::dice::json(dice)
        ));
    }
    made
}

/// Statements that change rows.
pub(super) fn rows(
    dice: &mut Dice,
    model: &Model,
    rids: &Rids,
    numbers: &mut Numbers,
    rolled_back: bool,
) -> Vec<String> {
    let tables: Vec<&Table> = model
        .tables
        .iter()
        .filter(|table| table.columns.iter().any(|column| column.name == "rid"))
        .filter(|table| !table.is_partition || dice.chance(20))
        .collect();
    let mut known = rids.clone();
    let mut made = Vec::new();
    // What was seen before the transaction is not what is seen after it, though the rows do not say so.
    if dice.chance(35) {
        let turned: Vec<&&Table> = tables.iter().filter(|table| table.is_base()).collect();
        let table = **dice.pick(&turned);
        made.extend(upheaval(dice, table));
    }
    let count = (3 + dice.below(6)) * numbers.times;
    for number in 0..count {
        let is_base = dice.chance(30);
        let chosen: Vec<&&Table> = (tables.iter())
            .filter(|table| table.is_base() == is_base && table.name != "hidden")
            .collect();
        let table = **dice.pick(&chosen);
        let rids = known.entry(table.name.clone()).or_default();
        let crowded = rids.len() > 25;
        let roll = dice.below(100);
        let turned = is_base
            .then(|| upheaval(dice, table))
            .flatten()
            .filter(|_| dice.chance(45));
        let statement = if turned.is_some() {
            turned
        } else if rids.is_empty() || (roll < 40 && !crowded) {
            Some(insert(dice, table, numbers, rids))
        } else if roll < 85 && !(crowded && dice.chance(40)) {
            update(dice, table, numbers, rids)
        } else {
            let gone: Vec<String> = (0..1 + dice.below(2))
                .map(|_| dice.pick(rids).to_string())
                .collect();
            Some(format!(
                "delete from app.{} where rid in ({})",
                table.name,
                gone.join(", ")
            ))
        };
        let Some(statement) = statement else { continue };
        match dice.below(100) {
            0..8 if rolled_back => made.push(format!(
                "savepoint s{number}; {statement}; rollback to s{number}"
            )),
            8..14 => made.push(format!(
                "savepoint s{number}; {statement}; release s{number}"
            )),
            _ => made.push(statement),
        }
    }
    made
}

/// One statement that changes who may see what; the rows stay as they are.
pub(super) fn permissions(dice: &mut Dice, model: &Model, numbers: &mut Numbers) -> Option<String> {
    let tables: Vec<&Table> = model
        .tables
        .iter()
        .filter(|table| table.name != "bare")
        .collect();
    let table = *dice.pick(&tables);
    let name = &table.name;
    let role = dice.pick(&ROLES);
    Some(match dice.below(100) {
        0..24 if table.policies.len() < 5 => {
            let policy = numbers.name(*dice.pick(&['a', 'k', 'z']));
            schema::policy(dice, model, table, &policy)
        }
        0..34 => format!("drop policy {} on app.{name}", pick(dice, &table.policies)?),
        34..44 => format!(
            "alter policy {} on app.{name} using ({})",
            pick(dice, &table.policies)?,
            schema::qual(dice, model, table)
        ),
        44..47 => format!(
            "alter policy {} on app.{name} to {}",
            pick(dice, &table.policies)?,
            dice.pick(&["public", "staff", "authenticated, keeper"])
        ),
        47..53 => format!(
            "alter table app.{name} {} row level security",
            if table.row_security && dice.chance(50) {
                "disable"
            } else {
                "enable"
            }
        ),
        53..56 => format!(
            "alter table app.{name} {}force row level security",
            dice.pick(&["", "no "])
        ),
        56..59 => format!("revoke select on app.{name} from {role}"),
        59..63 => format!("grant select on app.{name} to {role}"),
        63..66 => {
            let columns: Vec<String> = table
                .columns
                .iter()
                .filter(|column| table.key.contains(&column.name) || dice.chance(70))
                .map(|column| column.name.clone())
                .collect();
            format!(
                "revoke select on app.{name} from {role}; grant select ({}) on app.{name} to {role}",
                columns.join(", ")
            )
        }
        66..80 => HELPERS[dice.below(HELPERS.len())].create(dice, model),
        80..83 => format!(
            "{} execute on all functions in schema app {} public",
            dice.pick(&["grant", "revoke"]),
            "to"
        )
        .replace(
            "revoke execute on all functions in schema app to",
            "revoke execute on all functions in schema app from",
        ),
        83..86 => format!("grant execute on all functions in schema app to public, {role}"),
        86..89 => (*dice.pick(&[
            "revoke authenticated from staff",
            "grant authenticated to staff",
            "grant keeper to guest",
            "revoke keeper from guest",
            "grant anon to staff",
            "revoke anon from staff",
        ]))
        .to_owned(),
        89..91 => format!(
            "alter role {} {}",
            dice.pick(&["staff", "guest"]),
            dice.pick(&["inherit", "noinherit"])
        ),
        91..93 => format!(
            "alter role {} {}",
            dice.pick(&["keeper", "staff", "definer"]),
            dice.pick(&["bypassrls", "nobypassrls", "nobypassrls"])
        ),
        93..95 => format!(
            "alter table app.{name} owner to {}",
            dice.pick(&["keeper", "postgres"])
        ),
        95..98 => {
            let (function, arguments) = *dice.pick(&[
                ("is_admin", ""),
                ("is_member", "int"),
                ("knows", "uuid, uuid"),
                ("my_teams", ""),
                ("role_in", "int"),
            ]);
            format!(
                "alter function app.{function}({arguments}) {}",
                dice.pick(&[
                    "owner to definer",
                    "owner to postgres",
                    "security definer",
                    "security invoker",
                    "set search_path = ''",
                    "reset search_path"
                ])
            )
        }
        _ => format!("{} usage on schema app {} {}", "grant", "to", role),
    })
}

/// One statement that changes tables, or their rows without telling the stream.
pub(super) fn tables(dice: &mut Dice, model: &Model, numbers: &mut Numbers) -> Option<String> {
    let tables: Vec<&Table> = model
        .tables
        .iter()
        .filter(|table| !table.is_partition)
        .collect();
    let table = *dice.pick(&tables);
    let name = &table.name;
    let others: Vec<&Column> = table
        .columns
        .iter()
        .filter(|column| !table.key.contains(&column.name) && column.name != "rid")
        .collect();
    Some(match dice.below(100) {
        0..15 => {
            let (type_name, default) = *dice.pick(&[
                ("int", "default 3"),
                ("text", ""),
                ("boolean", "default true"),
                ("uuid", "default '10000000-0000-4000-8000-000000000001'"),
                ("timestamptz", "default now()"),
                ("int", "default (random() * 5)::int"),
            ]);
            format!(
                "alter table app.{name} add column {} {type_name} {default}",
                numbers.name('c')
            )
        }
        15..25 => format!(
            "alter table app.{name} drop column {}",
            pick(dice, &others)?.name
        ),
        25..35 => format!(
            "alter table app.{name} rename column {} to {}",
            pick(dice, &others)?.name,
            numbers.name('c')
        ),
        35..50 => {
            let column = pick(dice, &others)?;
            let other = column.kind?.literal(dice);
            let type_name = match column.kind? {
                Kind::Int => "int",
                Kind::Text => "text",
                Kind::Bool => "boolean",
                Kind::Uuid => "uuid",
                _ => return None,
            };
            format!(
                "alter table app.{name} alter column {0} type {type_name} using coalesce({0}, {other})",
                column.name
            )
        }
        50..60 => format!(
            "alter table app.{name} replica identity {}",
            dice.pick(&["full", "default"])
        ),
        60..68 => match model.table("logs_b").map(|table| table.is_partition) {
            Some(true) => "alter table app.logs detach partition app.logs_b".to_owned(),
            Some(false) => {
                "alter table app.logs attach partition app.logs_b for values in ('b', 'c')"
                    .to_owned()
            }
            None => return None,
        },
        68..76 => format!(
            "alter publication supabase_realtime {} table app.{name}",
            if table.is_published && !table.is_root {
                "drop"
            } else {
                "add"
            }
        ),
        76..80 => format!(
            "alter type app.level add value if not exists '{}' before 'high'",
            numbers.name('l')
        ),
        80..84 => format!(
            "alter table app.{name} {} trigger all",
            dice.pick(&["enable", "disable"])
        ),
        84..90 => format!(
            "alter table app.{name} alter column {} set default null",
            pick(dice, &others)?.name
        ),
        90..94 => format!("create index on app.{name} ({})", pick(dice, &others)?.name),
        _ => format!("comment on table app.{name} is '{}'", numbers.name('c')),
    })
}

fn pick<'a, T>(dice: &mut Dice, list: &'a [T]) -> Option<&'a T> {
    (!list.is_empty()).then(|| dice.pick(list))
}
