//! What may be seen now, of rows that were written in the past.
//!
//! Pure. The plans and the tables of now say whether a row with this content can be seen; they say nothing about the time of
//! its commit. So they can hide, and never show.

use std::collections::{BTreeMap, BTreeSet};

use super::{Compiled, Knowledge, Sitting, Verdicts, When, evaluate, place, row};
use crate::change::{Lsn, Oid};
use crate::pipeline::addressees::Group;
use crate::pipeline::lane::{LaneId, Lanes};
use crate::pipeline::part::Part;
use crate::policy::builtin::Session;
use crate::policy::{Identity, Verdict, World};
use crate::shadow::Shadow;

impl Verdicts {
    /// Whether a row with the content of change `index` is hidden from the identity by the policies of now, whatever they
    /// were at the commit; false where nobody can tell. Whatever committed before `upto` was applied. Not for plans that read
    /// the time.
    pub(in crate::pipeline) fn hides_now(
        &mut self,
        sitting: &mut Sitting,
        identity: &Identity,
        part: &Part,
        (routed, index): (u64, u32),
        upto: Lsn,
    ) -> bool {
        let Some((change, view)) = part.change(index) else {
            return false;
        };
        let planned = self.plans.get(&view.table.oid);
        let planned = planned.and_then(|by| by.get(identity.role()));
        let (Some(Ok(compiled)), Some(knowledge)) = (planned, &self.knowledge) else {
            return false;
        };
        if !is_of_now(compiled, knowledge, &self.shadow, part, upto) {
            return false;
        }
        if std::mem::replace(&mut self.routed, routed) != routed {
            self.rows.clear();
        }
        let row = self
            .rows
            .entry((index, compiled.number, When::After))
            .or_insert_with(|| row(knowledge, compiled, change, view));
        let Some(row) = row else {
            return false;
        };
        sitting.at(identity, &part.commit);
        let verdict = evaluate(compiled, knowledge, &self.shadow, sitting, row);
        let is_hidden = matches!(verdict, Verdict::Deny);
        let denied = &mut self.judged.denied;
        *denied = denied.saturating_add(u64::from(is_hidden));
        is_hidden
    }

    /// The lanes of a table and role from which [`Self::hides_now`] does not hide the row of change `index`, and perhaps more;
    /// `None`: any of them.
    pub(in crate::pipeline) fn audience_now(
        &mut self,
        part: &Part,
        (routed, index): (u64, u32),
        role: &str,
        group: &mut Group,
        lanes: &mut Lanes,
        upto: Lsn,
    ) -> Option<BTreeSet<LaneId>> {
        let (change, view) = part.change(index)?;
        let compiled = self.plans.get(&view.table.oid)?.get(role)?.as_ref().ok()?;
        let knowledge = self.knowledge.as_ref()?;
        if !compiled.plan.has_audience()
            || !is_of_now(compiled, knowledge, &self.shadow, part, upto)
        {
            return None;
        }
        place(group, compiled, knowledge, &self.shadow, lanes, part);
        if std::mem::replace(&mut self.routed, routed) != routed {
            self.rows.clear();
        }
        let row = self
            .rows
            .entry((index, compiled.number, When::After))
            .or_insert_with(|| row(knowledge, compiled, change, view))
            .as_ref()?;
        let session = Session {
            now: part.commit.time.0,
            settings: BTreeMap::new(),
        };
        let world = World {
            tables: &self.shadow,
            session: &session,
            types: &knowledge.schema.types,
        };
        Some(group.under(compiled.plan.audience(world, row, group)?))
    }

    /// Whether [`Self::hides_now`] cannot tell yet of a table's rows, and soon may.
    pub(in crate::pipeline) fn will_tell(&self, table: Oid, role: &str, upto: Lsn) -> bool {
        let planned = self.plans.get(&table).and_then(|by| by.get(role));
        let Some(Ok(compiled)) = planned else {
            return false;
        };
        self.knowledge.is_some()
            && !compiled.plan.reads.time
            && !self.shadow.is_exact(&compiled.tables, upto)
            && self.shadow.is_coming(&compiled.tables)
    }
}

/// Whether the plan and its tables say who may see rows now, given that whatever committed before `upto` was applied.
fn is_of_now(
    compiled: &Compiled,
    knowledge: &Knowledge,
    shadow: &Shadow,
    part: &Part,
    upto: Lsn,
) -> bool {
    part.catalog.fingerprint == knowledge.fingerprint
        && !compiled.plan.reads.time
        && shadow.is_exact(&compiled.tables, upto)
}
