//! WITH, recursive ones too.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::{Machine, Scope};
use crate::policy::builtin::Row;
use crate::policy::ir::With;
use crate::policy::value::SqlError;

/// Rounds of a recursive query that keeps whatever it finds, and rows of it. Over rows that lead back to themselves it has no
/// end; Postgres stops where no more rows are asked for.
const ROUNDS_MAX: usize = 1000;
const ROWS_MAX: usize = 10_000;

/// The WITH queries of a query, evaluated when first read.
pub(in crate::policy::eval) struct Withs<'s> {
    pub(super) list: &'s [With],
    pub(super) done: RefCell<HashMap<usize, Rc<Vec<Row>>>>,
}

impl Machine<'_> {
    pub(super) fn with(&self, index: usize, scope: &Scope<'_>) -> Result<Rc<Vec<Row>>, SqlError> {
        let mut around = Some(scope);
        while let Some(found) = around {
            let holder = found.withs.filter(|withs| {
                withs.done.borrow().contains_key(&index)
                    || withs.list.iter().any(|with| with.index == index)
            });
            if let Some(withs) = holder {
                if let Some(rows) = withs.done.borrow().get(&index) {
                    return Ok(Rc::clone(rows));
                }
                let Some(with) = withs.list.iter().find(|with| with.index == index) else {
                    return Err(SqlError::internal("a WITH query that is missing"));
                };
                let rows = Rc::new(self.with_rows(with, withs, found)?);
                withs.done.borrow_mut().insert(index, Rc::clone(&rows));
                return Ok(rows);
            }
            around = found.outer;
        }
        Err(SqlError::internal("a WITH query that is missing"))
    }

    fn with_rows(
        &self,
        with: &With,
        withs: &Withs<'_>,
        scope: &Scope<'_>,
    ) -> Result<Vec<Row>, SqlError> {
        let mut all = self.rows_of(&with.query, scope)?;
        let Some((step, keep)) = &with.recursive else {
            return Ok(all);
        };
        let mut seen: HashSet<Row> = HashSet::new();
        let types = &with.query.types;
        let mut fresh = |rows: Vec<Row>| -> Result<Vec<Row>, SqlError> {
            let mut kept = Vec::new();
            for row in rows {
                if *keep || seen.insert(self.canonical_row(types, &row)?) {
                    kept.push(row);
                }
            }
            Ok(kept)
        };
        all = fresh(all)?;
        let mut working = all.clone();
        let mut rounds: usize = 0;
        while !working.is_empty() {
            self.step()?;
            rounds = rounds.saturating_add(1);
            if *keep && (rounds > ROUNDS_MAX || all.len() > ROWS_MAX) {
                return Err(SqlError::undecided("a recursive query without an end"));
            }
            withs.done.borrow_mut().insert(with.index, Rc::new(working));
            let rows = self.rows_of(step, scope);
            withs.done.borrow_mut().remove(&with.index);
            working = fresh(rows?)?;
            all.extend(working.iter().cloned());
        }
        Ok(all)
    }
}
