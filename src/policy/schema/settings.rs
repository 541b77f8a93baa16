//! Which settings have values that come from somewhere else than a request (*io*).

use std::collections::BTreeSet;

use tokio_postgres::{Client, Error};

use super::Schema;

/// Those of `$1` that have no value in this session, nor in a later one of the same login.
const UNSET: &str = "
    select s.name from pg_catalog.unnest($1::text[]) s (name)
    where coalesce(pg_catalog.current_setting(s.name, true), '') = '' and not exists (
      select from pg_catalog.pg_db_role_setting r cross join pg_catalog.unnest(r.setconfig) c (item)
      where r.setdatabase in (0, (select d.oid from pg_catalog.pg_database d
          where d.datname = pg_catalog.current_database()))
        and r.setrole in (0, (select o.oid from pg_catalog.pg_roles o where o.rolname = session_user))
        and pg_catalog.lower(pg_catalog.split_part(c.item, '=', 1)) = s.name)";

/// Settings of Postgres' own that change what an expression or a function means.
const UNUSUAL: &str = "
    select v.name from (values ('transform_null_equals', 'off'), ('standard_conforming_strings', 'on'),
      ('array_nulls', 'on'), ('row_security', 'on'), ('plpgsql.variable_conflict', 'error'),
      ('plpgsql.extra_errors', 'none')) v (name, usual)
    where coalesce(nullif(pg_catalog.current_setting(v.name, true), ''), v.usual) <> v.usual limit 1";

pub(super) async fn read(client: &Client, schema: &mut Schema) -> Result<(), Error> {
    if let Some(row) = client.query_opt(UNUSUAL, &[]).await? {
        schema.unusual = Some(row.try_get::<_, &str>(0)?.into());
    }
    let mut names = BTreeSet::new();
    let policies = schema.tables.values().flat_map(|table| &table.policies);
    for qual in policies.filter_map(|policy| policy.qual.as_deref()) {
        mentioned(qual, &mut names);
    }
    for function in schema.functions.values() {
        mentioned(&function.body, &mut names);
    }
    let names: Vec<String> = names.into_iter().collect();
    client.batch_execute("savepoint settings").await?;
    match client.query(UNSET, &[&names]).await {
        Ok(rows) => {
            for row in rows {
                schema.unset.insert(row.try_get::<_, &str>(0)?.into());
            }
        }
        // One of them may be read by superusers only: then none is known.
        Err(error) if error.as_db_error().is_some() => {
            client
                .batch_execute("rollback to savepoint settings")
                .await?;
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// The names that calls of `current_setting` seem to ask for, in lower case. Too many or too few do no harm.
fn mentioned(text: &str, names: &mut BTreeSet<String>) {
    let text = text.to_ascii_lowercase();
    for call in text.split("current_setting").skip(1) {
        if let Some(name) = call.split('\'').nth(1)
            && name.contains('.')
            && name.len() < 200
        {
            names.insert(name.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_settings_are_found_in_text() {
        let mut names = BTreeSet::new();
        mentioned(
            "a = Current_Setting( 'App.One') or b = pg_catalog.current_setting(('app.two'::text), true) \
             or 'app.three' = current_setting(name) or current_setting('role') = ''",
            &mut names,
        );
        assert_eq!(
            names.into_iter().collect::<Vec<_>>(),
            ["app.one", "app.two"]
        );
    }
}
