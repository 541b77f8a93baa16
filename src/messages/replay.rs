//! What is replayed, in the order in which it was committed. Plain functions.
//!
//! Postgres gives the newest rows by the time at which their transactions began. The stream knows the newest by their commits:
//! what it knows is newer than what it does not.

use crate::log::RowId;
use crate::realtime::Stored;

/// Ids that are among the newest and were not found: the table gave as many rows as it was asked for, and may have more.
pub(super) fn missing(found: &[Stored], newest: &[RowId], limit: usize) -> Vec<String> {
    if found.len() < limit {
        return Vec::new();
    }
    let found: Vec<RowId> = found.iter().filter_map(id).collect();
    let missing = newest.iter().filter(|id| !found.contains(id));
    missing.map(RowId::to_string).collect()
}

/// The newest rows, oldest first, at most `limit`: of those `found` and of `more`, which were missing.
///
/// What the stream does not know keeps its order. It is older, but for what stands behind the last that is known: the stream
/// may not have come to that.
pub(super) fn arrange(
    mut found: Vec<Stored>,
    more: Vec<Stored>,
    newest: &[RowId],
    limit: usize,
) -> Vec<Stored> {
    let place = |row: &Stored| {
        let id = id(row)?;
        newest.iter().position(|known| *known == id)
    };
    let last = found.iter().rposition(|row| place(row).is_some());
    let later = last.map_or_else(Vec::new, |last| found.split_off(last.saturating_add(1)));
    found.extend(more);
    found.sort_by_cached_key(place);
    found.extend(later);
    let surplus = found.len().saturating_sub(limit);
    found.drain(..surplus);
    found
}

fn id(row: &Stored) -> Option<RowId> {
    row.id.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::realtime::StoredData;

    fn uuid(n: u32) -> String {
        format!("{n:08x}-0000-4000-8000-000000000000")
    }

    fn rows(numbers: &[u32]) -> Vec<Stored> {
        let row = |n: &u32| Stored {
            id: uuid(*n).into(),
            event: "e".into(),
            data: StoredData::Json("{}".into()),
        };
        numbers.iter().map(row).collect()
    }

    fn ids(numbers: &[u32]) -> Vec<RowId> {
        (numbers.iter().map(|n| uuid(*n).parse().unwrap())).collect()
    }

    #[track_caller]
    fn check(found: &[u32], more: &[u32], newest: &[u32], limit: usize, wanted: &[u32]) {
        let arranged = arrange(rows(found), rows(more), &ids(newest), limit);
        assert_eq!(arranged, rows(wanted), "{found:?} {more:?} {newest:?}");
    }

    #[test]
    fn rows_come_in_the_order_of_the_stream_after_those_that_it_does_not_know() {
        check(&[1, 2, 3], &[], &[], 3, &[1, 2, 3]);
        check(&[1, 2, 3], &[], &[3, 2], 3, &[1, 3, 2]);
        check(&[5, 1, 2, 3], &[], &[3, 1, 2], 4, &[5, 3, 1, 2]);
        check(&[1, 2, 3], &[9], &[2, 9, 3], 3, &[2, 9, 3]);
        check(&[2, 1], &[], &[7, 8], 3, &[2, 1]);
        check(&[1, 2], &[9], &[9], 2, &[2, 9]);
    }

    #[test]
    fn what_the_stream_has_not_come_to_stays_behind_what_it_knows() {
        check(&[1, 2, 3, 4, 5], &[], &[3, 2], 5, &[1, 3, 2, 4, 5]);
        check(&[1, 2, 3, 4, 5], &[9], &[9, 3, 2], 5, &[9, 3, 2, 4, 5]);
    }

    #[test]
    fn what_the_table_did_not_give_is_missing_only_if_it_may_have_more() {
        let missing =
            |found: &[u32], newest: &[u32], limit| missing(&rows(found), &ids(newest), limit);
        assert_eq!(missing(&[1, 2], &[1, 2], 2), [""; 0]);
        assert_eq!(missing(&[1, 2], &[9, 2], 3), [""; 0]);
        assert_eq!(missing(&[1, 2], &[9, 2], 2), [uuid(9).replace('-', "")]);
    }
}
