//! Few values, so that written policies hit: rows, what is looked into, and claims, sound and odd ones.

use serde_json::{Value, json};

use super::super::claims::Identity;
use super::super::dice::{Dice, USERS};

/// What the columns of `app.note` hold; `uuid` stands for a person, NULL is always possible.
const COLUMNS: [(&str, &[&str]); 40] = [
    ("owner", &["uuid"]),
    ("other", &["uuid"]),
    ("org", &["1", "2", "3", "4"]),
    ("room", &["1", "2", "3", "4"]),
    ("folder", &["1", "2", "3", "4"]),
    ("tenant", &["uuid"]),
    (
        "title",
        &[
            "'a'", "'open'", "''", "'a%x'", "'B b,a'", "'a1'", "uuid", "'é'",
        ],
    ),
    (
        "state",
        &[
            "'open'",
            "'public'",
            "'org'",
            "'private'",
            "'followers'",
            "'2'",
            "' 3 '",
            "'draft'",
            "'ab'",
        ],
    ),
    ("slug", &["'open'", "'ab'", "'x'"]),
    ("code", &["'ab'", "'open'", "''"]),
    (
        "email",
        &[
            "'a@example.com'",
            "'B@Example.com'",
            "'c@other.org'",
            "'none'",
        ],
    ),
    ("kind", &["'draft'", "'open'", "'closed'", "'archived'"]),
    ("wanted", &["'viewer'", "'editor'", "'admin'", "'owner'"]),
    ("open", &["true", "false", "true"]),
    ("hidden", &["true", "false", "false"]),
    ("rank", &["0", "1", "2", "3", "-1"]),
    ("small", &["0", "1", "3"]),
    ("big", &["0", "1", "3", "3000000000"]),
    ("amount", &["1.5", "2", "1.499", "0", "'NaN'"]),
    ("price", &["1.50", "'NaN'", "11", "-1.5", "'Infinity'"]),
    (
        "ratio",
        &["0.1", "0.3", "'NaN'", "1.5", "'-Infinity'", "-0.0"],
    ),
    (
        "tags",
        &["'{a}'", "'{a,b}'", "'{}'", "'{admin,NULL}'", "'{read}'"],
    ),
    (
        "people",
        &[
            "array[uuid]::uuid[]",
            "'{}'",
            "array[uuid, uuid, null]::uuid[]",
        ],
    ),
    (
        "nums",
        &["'{1,2,3}'", "'{}'", "'{1,NULL}'", "'{2}'", "'[0:1]={2,3}'"],
    ),
    ("kinds", &["'{open}'", "'{open,draft}'", "'{}'", "'{NULL}'"]),
    (
        "data",
        &[
            "'{}'",
            "'null'",
            "'[]'",
            "'{\"flag\": true, \"level\": 1}'",
            "'{\"flag\": null, \"level\": 2.0}'",
            "'{\"flag\": \"perhaps\", \"level\": \"3\"}'",
            "'{\"tags\": [\"a\"], \"need\": {\"role\": \"admin\"}}'",
            "jsonb_build_object('owner', uuid::uuid, 'level', 1)",
            "jsonb_build_object('people', jsonb_build_array(jsonb_build_object('id', uuid::uuid, 'role', 'admin')))",
            "jsonb_build_object('acl', jsonb_build_object(uuid, 'rw'))",
            "'{\"tags\": {}, \"people\": 1}'",
        ],
    ),
    (
        "doc",
        &[
            "'{\"state\": \"open\"}'",
            "'{\"n\": [1]}'",
            "'{\"n\": [\"x\"]}'",
            "'1'",
        ],
    ),
    (
        "at",
        &[
            "'2020-01-01 00:00:00+00'",
            "'2125-01-01 00:00:00+00'",
            "'infinity'",
            "'2020-06-30 23:30:00+00'",
            "now()",
            "now() - interval '1 hour'",
        ],
    ),
    (
        "starts",
        &["'2020-01-01 12:00:00'", "'2125-01-01'", "'-infinity'"],
    ),
    (
        "day",
        &[
            "'2020-01-01'",
            "'2125-01-01'",
            "current_date",
            "'2020-06-30'",
        ],
    ),
    ("clock", &["'00:00'", "'12:30'", "'23:59:59'"]),
    ("span", &["'1 day'", "'1 month'", "'30 days'", "'-1 hour'"]),
    (
        "during",
        &[
            "'[2020-01-01,2126-01-01)'",
            "'empty'",
            "'(,2020-01-01]'",
            "'[2030-01-01,)'",
        ],
    ),
    ("pages", &["'[1,5)'", "'empty'", "'(,2]'", "'[2,2]'"]),
    (
        "place",
        &[
            "row('a', '1')::app.address",
            "row(null, null)::app.address",
            "row(null, '1')::app.address",
        ],
    ),
    ("plan", &["'free'", "'pro'", "'team'"]),
    ("score", &["0", "51", "100"]),
    ("flags", &["B'00000010'", "B'10000001'", "B'00000000'"]),
    (
        "path",
        &[
            "'org/1/x'",
            "'org/2/'",
            "'1/2'",
            "'org'",
            "uuid",
            "'org/' || uuid",
            "'a\\_x'",
        ],
    ),
    ("word", &["'a'", "'A'", "'b'", "'Z'"]),
];

fn value(dice: &mut Dice, values: &[&str]) -> String {
    if dice.chance(12) {
        return "null".to_owned();
    }
    let mut text = String::new();
    let mut pieces = dice.pick(values).split("uuid");
    text.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        // Not the names of types.
        if piece.starts_with("[]") || text.ends_with("::") {
            text.push_str("uuid");
        } else {
            text.push_str(&format!("'{}'", dice.user()));
        }
        text.push_str(piece);
    }
    text
}

/// `(columns) values (...)` of a new row.
pub(super) fn row(dice: &mut Dice, id: i64) -> String {
    let mut names = vec!["rid", "id"];
    let mut values = vec![id.to_string(), id.to_string()];
    for (name, list) in COLUMNS {
        names.push(name);
        values.push(value(dice, list));
    }
    format!("({}) values ({})", names.join(", "), values.join(", "))
}

/// `a = b, ...` of an update.
pub(super) fn assignments(dice: &mut Dice) -> String {
    let mut sets: Vec<String> = Vec::new();
    for _ in 0..3 + dice.below(4) {
        let (name, list) = *dice.pick(&COLUMNS);
        if !sets.iter().any(|set| set.starts_with(&format!("{name} "))) {
            sets.push(format!("{name} = {}", value(dice, list)));
        }
    }
    sets.join(", ")
}

/// Makes, changes or removes something that policies look into.
pub(super) fn upheaval(dice: &mut Dice) -> String {
    let user = |dice: &mut Dice| format!("'{}'", dice.user());
    let (a, b) = (user(dice), user(dice));
    let n = 1 + dice.below(4);
    let m = 1 + dice.below(4);
    let yes = dice.chance(70);
    let grade = *dice.pick(&["viewer", "editor", "admin", "owner"]);
    let role = *dice.pick(&["admin", "member", "moderator", "guest"]);
    let when = *dice.pick(&["null", "'2019-01-01'", "'2125-01-01'", "'infinity'"]);
    match dice.below(24) {
        0..4 => format!(
            "insert into app.members values ({n}, {a}, '{grade}', {yes}, '2019-01-01', {when}, '{{a,read}}') on conflict (org, who) do update set grade = excluded.grade, active = excluded.active, until = excluded.until"
        ),
        4 => format!("delete from app.members where who = {a} and org = {n}"),
        5 => "update app.members set active = not active".to_owned(),
        6 | 7 => format!(
            "insert into app.seats values ({n}, {a}, '{role}', {when}) on conflict (room, who) do update set role = excluded.role, left_at = excluded.left_at"
        ),
        8 => format!("delete from app.seats where room = {n} and who = {a}"),
        9 => format!(
            "insert into app.orgs values ({n}, nullif({m}, {n}), 'o', '{}', {a}, '{{\"limit\": \"2\"}}', {yes}, {b}) on conflict (id) do update set parent = excluded.parent, active = excluded.active, plan = excluded.plan",
            dice.pick(&["free", "pro", "team"])
        ),
        10 => format!(
            "insert into app.profiles values ({a}, 'n', '{role}', {n}, {yes}, '{{}}', 'UTC', {b}) on conflict (id) do update set banned = not app.profiles.banned, org = excluded.org, parent = excluded.parent"
        ),
        11 => format!(
            "insert into app.follows values ({a}, {b}, {yes}) on conflict (follower, followee) do update set accepted = excluded.accepted"
        ),
        12 => format!("delete from app.follows where follower = {a}"),
        13 => format!("insert into app.blocks values ({a}, {b}) on conflict do nothing"),
        14 => format!("delete from app.blocks where blocker = {a}"),
        15 => format!(
            "insert into app.rooms values ({n}, {m}, {yes}, {a}, 'open', array[{a}, {b}]::uuid[]) on conflict (id) do update set private = excluded.private, people = excluded.people, creator = excluded.creator"
        ),
        16 | 17 => format!(
            "insert into app.shares values ({}, {n}, {a}, {m}, '{grade}', '[2020-01-01,{})', 'x') on conflict (id) do update set note = excluded.note, who = excluded.who, valid = excluded.valid",
            dice.below(20),
            dice.pick(&["2021-01-01", "2126-01-01"])
        ),
        18 => "delete from app.shares where id < 8".to_owned(),
        19 => format!(
            "insert into app.grants values ('{role}', '{}') on conflict do nothing",
            dice.pick(&["read.open", "read.*", "notes.read", "see", "read.draft"])
        ),
        20 => format!(
            "insert into app.config values ('{}', '{}') on conflict (key) do update set value = excluded.value",
            dice.pick(&["open", "kind", "all_open"]),
            dice.pick(&["yes", "no", "true", "open"])
        ),
        21 => format!(
            "insert into app.folders values ({n}, nullif({m}, {n}), {a}, {yes}) on conflict (id) do update set parent = excluded.parent, public = excluded.public"
        ),
        22 => format!(
            "insert into app.notes_of_staff values ({n}, {a}, '{}') on conflict (id) do update set word = excluded.word",
            dice.pick(&["staff", "x"])
        ),
        _ => (*dice.pick(&[
            "delete from app.seats where role = 'moderator'",
            "update app.profiles set org = 1 + org % 4",
            "update app.orgs set active = not active where id < 3",
            "truncate app.blocks",
            "delete from app.grants where permission = 'read.*'",
        ]))
        .to_owned(),
    }
}

/// Who listens.
pub(super) fn identities(expires_at: i64) -> Vec<Identity> {
    let [a, b, c, d, e, f] = USERS;
    let claims = [
        (
            "authenticated",
            json!({"sub": a, "email": "a@example.com", "aal": "aal2", "level": 3, "aud": "authenticated",
            "app_metadata": {"tenant": b, "tenants": [a, b], "orgs": [1, 2], "org_roles": {"1": "admin", "2": "viewer"}, "role": "admin", "roles": ["admin", "a"], "path": "org/1", "org": "1"}}),
        ),
        (
            "authenticated",
            json!({"sub": b, "email": "B@Example.com", "aal": "aal1", "level": "2", "aud": ["web"], "amr": [{"method": "mfa", "timestamp": 1}],
            "app_metadata": {"tenant": a, "tenants": [], "orgs": [3.0, "4"], "org_roles": {"3": "owner"}, "role": "member", "roles": "admin"}, "user_metadata": {"org": 2}}),
        ),
        (
            "authenticated",
            json!({"sub": c, "is_anonymous": true, "level": 1.5, "app_metadata": {"tenant": "", "roles": {"admin": true}, "orgs": 1, "role": null}}),
        ),
        (
            "authenticated",
            json!({"sub": d, "is_anonymous": "no", "level": "high", "email": "d", "iat": 4_000_000_000_u64, "limits": {"price": "1.5"}, "app_metadata": {"tenant": "nobody", "tenants": ["x"], "orgs": [], "role": "moderator"}}),
        ),
        (
            "authenticated",
            json!({"sub": e, "level": null, "amr": "mfa", "app_metadata": null, "user_metadata": [1]}),
        ),
        (
            "authenticated",
            json!({"sub": f, "level": "", "aal": "aal2", "limits": {"price": "NaN"}, "app_metadata": "none"}),
        ),
        (
            "authenticated",
            json!({"level": 2, "email": "c@other.org", "app_metadata": {"orgs": [1, 2, 3, 4], "role": "admin"}}),
        ),
        (
            "authenticated",
            json!({"sub": null, "is_anonymous": "maybe", "app_metadata": {"roles": [null, "a", 1]}}),
        ),
        ("authenticated", json!({"sub": "", "level": true})),
        (
            "authenticated",
            json!({"sub": "user_2abc", "app_metadata": {"tenant": a, "orgs": [2], "role": "guest"}}),
        ),
        (
            "authenticated",
            json!({"sub": "{20000000-0000-4000-8000-000000000002}", "level": "99999999999", "app_metadata": {"path": "%", "tenants": null}}),
        ),
        (
            "anon",
            json!({"app_metadata": {"orgs": [2], "roles": ["open", "draft"]}}),
        ),
        ("anon", json!({"sub": a})),
        (
            "staff",
            json!({"sub": b, "level": 1, "app_metadata": {"role": "admin"}}),
        ),
        (
            "staff",
            json!({"sub": d, "level": 2e0, "app_metadata": {"roles": ["read"], "orgs": [[1]]}}),
        ),
        ("guest", json!({"sub": a, "level": 3})),
        ("keeper", json!({"sub": c})),
        ("keeper", json!({"sub": "nobody"})),
        ("service_role", json!({})),
    ];
    let with_role = |(role, mut claims): (&'static str, Value)| {
        claims["role"] = role.into();
        claims["exp"] = expires_at.into();
        Identity { role, claims }
    };
    claims.into_iter().map(with_role).collect()
}
