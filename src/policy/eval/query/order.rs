//! ORDER BY: sorted rows, and the ones that a limit or DISTINCT ON keeps, if that is certain.

use std::cell::Cell;
use std::cmp::Ordering;

use super::{Machine, Scope, Tuple};
use crate::policy::builtin::Row;
use crate::policy::ir::{Query, SortKey};
use crate::policy::value::{SqlError, Value, compare};

impl Machine<'_> {
    /// Raises if rows on both sides of an edge could change places.
    pub(super) fn determined(
        &self,
        query: &Query,
        rows: &[Row],
        edge: usize,
        scope: &Scope<'_>,
    ) -> Result<(), SqlError> {
        let (Some(before), Some(after)) = (
            edge.checked_sub(1).and_then(|place| rows.get(place)),
            rows.get(edge),
        ) else {
            return Ok(());
        };
        if self.order(&query.order_by, before, after, scope)? != Ordering::Equal {
            return Ok(());
        }
        for row in rows {
            let tied = self.order(&query.order_by, row, before, scope)? == Ordering::Equal;
            if tied && row.get(..query.width) != before.get(..query.width) {
                return Err(SqlError::undecided("which of several rows comes first"));
            }
        }
        Ok(())
    }

    pub(super) fn distinct_on(
        &self,
        query: &Query,
        keys: usize,
        rows: Vec<Row>,
        scope: &Scope<'_>,
    ) -> Result<Vec<Row>, SqlError> {
        let leading = query.order_by.get(..keys).unwrap_or_default();
        let mut kept: Vec<Row> = Vec::new();
        for row in rows {
            let Some(last) = kept.last() else {
                kept.push(row);
                continue;
            };
            if self.order(leading, last, &row, scope)? != Ordering::Equal {
                kept.push(row);
            } else if self.order(&query.order_by, last, &row, scope)? == Ordering::Equal
                && last.get(..query.width) != row.get(..query.width)
            {
                return Err(SqlError::undecided("which of several rows comes first"));
            }
        }
        Ok(kept)
    }

    /// Sort keys read the row as the only table of their query.
    fn order(
        &self,
        keys: &[SortKey],
        a: &[Value],
        b: &[Value],
        scope: &Scope<'_>,
    ) -> Result<Ordering, SqlError> {
        let value = |key: &SortKey, row: &[Value]| {
            let rows = [Some(Tuple::from(row))];
            self.eval(&key.value, &scope.inner(&rows))
        };
        for key in keys {
            let order = self.order_by(key, &value(key, a)?, &value(key, b)?)?;
            if order != Ordering::Equal {
                return Ok(order);
            }
        }
        Ok(Ordering::Equal)
    }

    /// The order of two lists of what sort keys have come to.
    pub(super) fn key_order(
        &self,
        keys: &[SortKey],
        a: &[Value],
        b: &[Value],
    ) -> Result<Ordering, SqlError> {
        for ((key, a), b) in keys.iter().zip(a).zip(b) {
            let order = self.order_by(key, a, b)?;
            if order != Ordering::Equal {
                return Ok(order);
            }
        }
        Ok(Ordering::Equal)
    }

    fn order_by(&self, key: &SortKey, a: &Value, b: &Value) -> Result<Ordering, SqlError> {
        let nulls = if key.nulls_first {
            Ordering::Less
        } else {
            Ordering::Greater
        };
        match (a, b) {
            (Value::Null, Value::Null) => Ok(Ordering::Equal),
            (Value::Null, _) => Ok(nulls),
            (_, Value::Null) => Ok(nulls.reverse()),
            (a, b) => {
                let order = compare(self.world.types, key.value.type_oid, a, b)?;
                if order != Ordering::Equal && !key.bytewise {
                    return Err(SqlError::undecided("the order of texts under a locale"));
                }
                Ok(if key.descending {
                    order.reverse()
                } else {
                    order
                })
            }
        }
    }

    pub(super) fn sort(
        &self,
        keys: &[SortKey],
        rows: &mut [Row],
        scope: &Scope<'_>,
    ) -> Result<(), SqlError> {
        let failure = Cell::new(None);
        rows.sort_by(|a, b| {
            self.order(keys, a, b, scope).unwrap_or_else(|error| {
                failure.set(Some(error));
                Ordering::Equal
            })
        });
        failure.take().map_or(Ok(()), Err)
    }
}
