//! The rows of a part as a lane sees them before Postgres is asked. Plain functions.

use crate::change::{Change, ChangeKind};
use crate::pipeline::lane::{ItemRow, Lane, RowState, policies_ask};
use crate::pipeline::part::Part;
use crate::pipeline::settle::receives;
use crate::pipeline::subscriber::{Subscriber, SubscriberId};
use crate::pipeline::view::{RowKeys, View};
use crate::policy::Predicate;
use crate::realtime::payload::Withheld;
use std::collections::HashMap;
use std::time::Instant;

/// The rows of a part that concern a lane.
pub(super) fn routed_rows(
    now: Instant,
    lane: &Lane,
    subscribers: &HashMap<SubscriberId, Subscriber>,
    keys: &RowKeys,
    part: &Part,
    number: u64,
) -> Vec<ItemRow> {
    let members: Vec<&Subscriber> = (lane.subscribers.iter())
        .filter_map(|id| subscribers.get(id))
        .filter(|subscriber| receives(subscriber, number, false, part))
        .collect();
    let mut rows = Vec::new();
    if members.is_empty() {
        return rows;
    }
    // Rows of this very part count as open for later rows of it only once pushed; a net effect has one row per key.
    for (index, (change, view)) in part.changes.iter().zip(&part.views).enumerate() {
        let (Some(view), Ok(index)) = (view, u32::try_from(index)) else {
            continue;
        };
        let follows = lane.follows_open_row(keys, part, index);
        let apply = lane_policies_apply(lane, view);
        let mut predicates = Vec::new();
        let mut wanted = false;
        for subscriber in &members {
            wanted |= subscriber.wants(change, view, apply, follows, &mut predicates);
        }
        if wanted {
            rows.push(item_row(now, lane, change, view, index, predicates));
        } else if follows {
            rows.push(ItemRow {
                change: index,
                state: RowState::Tracked,
                predicates: Box::default(),
                truths: Box::default(),
            });
        }
    }
    rows
}

pub(super) fn lane_policies_apply(lane: &Lane, view: &View) -> bool {
    view.table
        .access
        .get(lane.key.identity.role())
        .is_some_and(|access| access.policies_apply)
}

/// A row as grants alone see it.
pub(super) fn item_row(
    now: Instant,
    lane: &Lane,
    change: &Change,
    view: &View,
    index: u32,
    predicates: Vec<Predicate>,
) -> ItemRow {
    let access = view.table.access.get(lane.key.identity.role());
    let state = match &change.kind {
        ChangeKind::Truncate => RowState::Tracked,
        ChangeKind::Insert { .. } | ChangeKind::Update { .. }
            if view.table.primary_key.is_empty() =>
        {
            RowState::Withheld(Withheld::NoPrimaryKey)
        }
        ChangeKind::Insert { .. } | ChangeKind::Update { .. }
            if access.is_none_or(|access| !view.key_granted(access)) =>
        {
            RowState::Withheld(Withheld::Unauthorized)
        }
        ChangeKind::Insert { new } | ChangeKind::Update { new, .. }
            if policies_ask(change, view, lane.key.identity.role()) =>
        {
            if view.key_of(new).is_none() || lane.standing.pool(now).is_none() {
                RowState::Refused
            } else {
                RowState::Unasked
            }
        }
        ChangeKind::Insert { .. } | ChangeKind::Update { .. } | ChangeKind::Delete { .. }
            if !predicates.is_empty() =>
        {
            RowState::Unasked
        }
        ChangeKind::Insert { .. } | ChangeKind::Update { .. } | ChangeKind::Delete { .. } => {
            RowState::Allowed
        }
    };
    let predicates = if state == RowState::Unasked {
        predicates
    } else {
        Vec::new()
    };
    ItemRow {
        change: index,
        state,
        predicates: predicates.into(),
        truths: Box::default(),
    }
}
