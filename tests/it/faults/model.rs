//! What a client may have received, given what was committed: nothing missing, nothing leaked, in order, and repeated only
//! where that is documented.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::client::Millis;
use super::journal::{Deed, PUBLIC, Truth, Who};

/// What a client asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interest {
    /// Filters by team.
    pub(crate) team: Option<i64>,
    pub(crate) inserts_only: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Insert,
    Update,
    Delete,
}

/// Commit and place within the transaction.
pub(crate) type Position = (u64, u32);

/// What a client lived through, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// On a new connection.
    Connected,
    /// The subscription was in force before, and this is what a SELECT as the client then gave: everything that this
    /// snapshot does not see must arrive.
    Began {
        snapshot: Snapshot,
        rows: Vec<(i64, i64)>,
    },
    Change {
        at: Position,
        kind: Kind,
        id: i64,
        /// 0 for a DELETE.
        version: i64,
        /// The version that wrote the body, if that was sent.
        body: Option<i64>,
        last: bool,
    },
    /// The server knows that the client has had this many events.
    Acknowledged(usize),
    /// The client was told to start over.
    Resync,
}

/// The text form of `pg_current_snapshot()`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    xmin: u64,
    xmax: u64,
    running: Vec<u64>,
}

impl Snapshot {
    pub(crate) fn parse(text: &str) -> Self {
        let fields: Vec<&str> = text.split(':').collect();
        let running = fields[2].split(',').filter(|xid| !xid.is_empty());
        Self {
            xmin: fields[0].parse().unwrap(),
            xmax: fields[1].parse().unwrap(),
            running: running.map(|xid| xid.parse().unwrap()).collect(),
        }
    }

    fn sees(&self, xid: u64) -> bool {
        xid < self.xmin || (xid < self.xmax && !self.running.contains(&xid))
    }
}

/// What the check found besides faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    pub(crate) changes: u64,
    /// Received again.
    pub(crate) duplicates: u64,
    /// Of these, what had been acknowledged right before a kill.
    pub(crate) repeated_late: u64,
    /// Did not arrive, superseded before something later arrived.
    pub(crate) merged: u64,
    /// Did not arrive, and rights had changed before something later arrived.
    pub(crate) uncertain: u64,
    /// Came as an INSERT without the body.
    pub(crate) bodiless: u64,
}

/// From one beginning to the next.
struct Stretch<'a> {
    snapshot: &'a Snapshot,
    /// What was received, and of which version.
    received: HashMap<(u64, i64), i64>,
    newest: Position,
    /// When it was first given something of this commit, for each that was newer than all before.
    reached: Vec<(u64, Millis)>,
    /// Nothing up to here may come again.
    acknowledged: Position,
    /// Likewise, but the server may have been killed before it had that written down.
    said: Position,
    /// The rows that the client shows.
    shown: BTreeMap<i64, i64>,
}

pub(crate) struct Check<'a> {
    pub(crate) who: Who,
    pub(crate) interest: Interest,
    pub(crate) truth: &'a Truth,
    /// What was acknowledged last may come again, and every DELETE arrives; else nothing comes twice, and a DELETE only to
    /// those who were shown the row on the way.
    pub(crate) resumes: bool,
    /// When each event was noticed.
    pub(crate) times: &'a [Millis],
    /// Acknowledgements, by the numbers of their events, that a kill may have undone.
    pub(crate) undone: &'a BTreeSet<usize>,
}

/// What must not be, and the number of the event near which it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) what: String,
    pub(crate) near: usize,
}

impl Check<'_> {
    /// Holds everything that a client lived through against the truth. `complete`: it has received the last transaction.
    pub(crate) fn run(&self, events: &[Event], complete: bool) -> Result<Findings, Fault> {
        let mut findings = Findings::default();
        let mut stretch: Option<Stretch<'_>> = None;
        // The change before, on the same connection.
        let mut before: Option<(Position, bool)> = None;
        for (number, event) in events.iter().enumerate() {
            let fault = |what: String| Fault {
                what: format!(
                    "{:?} {:?}, event {number} {}: {what}",
                    self.who,
                    self.interest,
                    brief(event)
                ),
                near: number,
            };
            match event {
                Event::Connected => before = None,
                Event::Began { snapshot, rows } => {
                    stretch = Some(Stretch {
                        snapshot,
                        received: HashMap::new(),
                        newest: (0, 0),
                        reached: Vec::new(),
                        acknowledged: (0, 0),
                        said: (0, 0),
                        shown: rows.iter().copied().collect(),
                    });
                }
                Event::Acknowledged(count) => {
                    if let Some(stretch) = &mut stretch {
                        // Of what another connection carried the server learns nothing on this one.
                        let had = (events[..*count].iter().rev())
                            .take_while(|event| **event != Event::Connected)
                            .find_map(|event| match event {
                                Event::Change { at, .. } => Some(*at),
                                _ => None,
                            });
                        let had = had.unwrap_or_default().min(stretch.newest);
                        stretch.said = stretch.said.max(had);
                        if !self.undone.contains(&number) {
                            stretch.acknowledged = stretch.acknowledged.max(had);
                        }
                    }
                }
                Event::Resync => {
                    if let Some(stretch) = stretch.take() {
                        let upto = &events[..number];
                        self.nothing_missing(&stretch, upto, false, &mut findings)?;
                    }
                    before = None;
                }
                Event::Change {
                    at,
                    kind,
                    id,
                    version,
                    body,
                    last,
                } => {
                    findings.changes += 1;
                    self.nothing_leaked(*at, *kind, *id, *version)
                        .map_err(fault)?;
                    let written = self.truth.body_of(*id, *version);
                    if body.is_some() && *body != written {
                        return Err(fault(format!("it had the body of version {written:?}")));
                    }
                    findings.bodiless += u64::from(*kind == Kind::Insert && body.is_none());
                    if let Some((earlier, was_last)) = before {
                        if earlier >= *at {
                            return Err(fault("out of order".into()));
                        }
                        if was_last == (earlier.0 == at.0) {
                            return Err(fault("the last one is not marked".into()));
                        }
                    }
                    before = Some((*at, *last));
                    let Some(stretch) = &mut stretch else {
                        continue;
                    };
                    let repeats = *at <= stretch.newest;
                    if repeats && !self.resumes {
                        return Err(fault("repeated".into()));
                    }
                    if repeats && *at <= stretch.acknowledged {
                        let (lsn, order) = stretch.acknowledged;
                        return Err(fault(format!("repeated; acknowledged: {lsn:X}/{order}")));
                    }
                    findings.repeated_late += u64::from(repeats && *at <= stretch.said);
                    if at.0 > stretch.newest.0 {
                        stretch.reached.push((at.0, self.time_of(number)));
                    }
                    stretch.newest = stretch.newest.max(*at);
                    // What was merged into a later version may come by itself when it is judged again.
                    let known = stretch.received.insert((at.0, *id), *version);
                    if known.is_some_and(|known| known != *version) {
                        return Err(fault("repeated as something else".into()));
                    }
                    findings.duplicates += u64::from(repeats);
                    match kind {
                        Kind::Delete => stretch.shown.remove(id),
                        Kind::Insert | Kind::Update => stretch.shown.insert(*id, *version),
                    };
                }
            }
        }
        if let Some(stretch) = stretch {
            self.nothing_missing(&stretch, events, complete, &mut findings)?;
            let sees_deletes = self.resumes && self.interest == Interest::default();
            let ghost = stretch.shown.keys().find(|id| !self.truth.exists(**id));
            if let Some(ghost) = ghost.filter(|_| complete && sees_deletes) {
                let of_it =
                    |event: &Event| matches!(event, Event::Change { id, .. } if id == ghost);
                return Err(Fault {
                    what: format!("{:?} still shows row {ghost}", self.who),
                    near: events.iter().rposition(of_it).unwrap_or_default(),
                });
            }
        } else if complete {
            return Err(Fault {
                what: format!("{:?} never began again", self.who),
                near: events.len(),
            });
        }
        Ok(findings)
    }

    fn time_of(&self, number: usize) -> Millis {
        let time = self.times.get(number).or(self.times.last());
        time.copied().unwrap_or_default()
    }

    /// Whether the client asked for changes of this kind.
    fn wants(&self, team: i64, inserted: bool) -> bool {
        self.interest.team.is_none_or(|wanted| wanted == team)
            && (inserted || !self.interest.inserts_only)
    }

    fn nothing_leaked(
        &self,
        at: Position,
        kind: Kind,
        id: i64,
        version: i64,
    ) -> Result<(), String> {
        let Some(index) = self.truth.at(at.0) else {
            return Err("no such transaction".into());
        };
        let deeds = &self.truth.transactions[index].deeds;
        if kind == Kind::Delete {
            // Its key reaches everybody who asked for deletes of any row.
            if self.interest != Interest::default() {
                return Err("a delete that was not asked for".into());
            }
            return if deeds.contains(&Deed::Drop { id }) {
                Ok(())
            } else {
                Err("no such delete".into())
            };
        }
        let put = deeds.iter().find_map(|deed| match *deed {
            Deed::Put {
                id: row,
                team,
                version: written,
                ..
            } if row == id => Some((team, written)),
            _ => None,
        });
        let Some((team, written)) = put else {
            return Err("no such change".into());
        };
        if written != version {
            return Err(format!("the transaction left version {written}"));
        }
        if self.interest.team.is_some_and(|wanted| wanted != team) {
            return Err(format!("it does not pass the filter, being of team {team}"));
        }
        if !self.truth.ever_visible(self.who, id, team, index) {
            return Err(format!("LEAK: it is of team {team}"));
        }
        Ok(())
    }

    fn nothing_missing(
        &self,
        stretch: &Stretch<'_>,
        events: &[Event],
        complete: bool,
        findings: &mut Findings,
    ) -> Result<(), Fault> {
        let mut reached = stretch.reached.iter().peekable();
        for (index, transaction) in self.truth.transactions.iter().enumerate() {
            // Whoever was asked about it was asked before something later arrived: what changed only after excuses nothing.
            while (reached.peek()).is_some_and(|(lsn, _)| *lsn <= transaction.lsn) {
                reached.next();
            }
            let judged = (reached.peek()).map_or_else(|| self.time_of(events.len()), |(_, at)| *at);
            // Of the newest transaction the rest may still be on its way.
            if !complete && transaction.lsn >= stretch.newest.0 {
                break;
            }
            if stretch.snapshot.sees(transaction.xid) {
                continue;
            }
            for deed in &transaction.deeds {
                let Deed::Put {
                    id, team, inserted, ..
                } = *deed
                else {
                    continue;
                };
                if !self.wants(team, inserted)
                    || stretch.received.contains_key(&(transaction.lsn, id))
                {
                    continue;
                }
                if !self.truth.sees(self.who, team, index) {
                    continue;
                }
                if self.truth.superseded_by(id, index, judged) {
                    findings.merged += 1;
                } else if !self.truth.surely_visible(self.who, team, index, judged) {
                    findings.uncertain += 1;
                } else {
                    let earlier = |event: &Event| matches!(event, Event::Change { at, .. } if at.0 < transaction.lsn);
                    return Err(Fault {
                        what: format!(
                            "{:?} {:?} misses row {id} of team {team} (public: {}), committed at {:X} by {} ({}); received up to {:X}, complete: {complete}",
                            self.who,
                            self.interest,
                            team == PUBLIC,
                            transaction.lsn,
                            transaction.xid,
                            transaction.unix_millis(),
                            stretch.newest.0,
                        ),
                        near: events.iter().rposition(earlier).unwrap_or_default(),
                    });
                }
            }
        }
        Ok(())
    }
}

pub(crate) fn brief(event: &Event) -> String {
    match event {
        Event::Began { snapshot, rows } => format!("Began {snapshot:?}, {} rows", rows.len()),
        Event::Change {
            at: (lsn, order),
            kind,
            id,
            version,
            body,
            last,
        } => format!(
            "{kind:?} {id} version {version} with the body of {body:?} at {lsn:X}/{order} last {last}"
        ),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::journal::Transaction;
    use super::*;

    fn put(id: i64, team: i64, version: i64) -> Deed {
        Deed::Put {
            id,
            team,
            version,
            inserted: id == version,
            body: (id == version).then_some(version),
        }
    }

    fn member(enters: bool) -> Deed {
        Deed::Member {
            team: 1,
            person: 7,
            enters,
        }
    }

    /// Transactions 1, 2, … minutes apart, so that nothing is excused.
    fn truth(deeds: &[&[Deed]]) -> Truth {
        let mut truth = Truth::default();
        for (deeds, number) in deeds.iter().zip(1..) {
            truth.push(Transaction {
                lsn: number,
                xid: number,
                time: i64::try_from(number).unwrap() * 120_000_000,
                deeds: deeds.to_vec(),
            });
        }
        truth
    }

    fn began(xmax: u64, rows: &[(i64, i64)]) -> Event {
        Event::Began {
            snapshot: Snapshot::parse(&format!("{xmax}:{xmax}:")),
            rows: rows.to_vec(),
        }
    }

    /// With the body that the row was inserted with.
    fn change(lsn: u64, kind: Kind, id: i64, version: i64) -> Event {
        with_body(lsn, kind, id, version, (kind != Kind::Delete).then_some(id))
    }

    fn with_body(lsn: u64, kind: Kind, id: i64, version: i64, body: Option<i64>) -> Event {
        Event::Change {
            at: (lsn, 0),
            kind,
            id,
            version,
            body,
            last: true,
        }
    }

    #[test]
    fn the_model_notices_what_must_not_be() {
        let truth = truth(&[
            &[put(1, 0, 1)],
            &[put(2, 0, 2)],
            &[put(3, 1, 3)],
            &[member(true)],
            &[put(4, 1, 4)],
            &[put(1, 0, 101)],
            &[Deed::Drop { id: 1 }],
            &[member(false)],
            &[put(5, 1, 5)],
            &[put(6, 0, 6)],
        ]);
        let undone = BTreeSet::from([4]);
        let check = |events: &[Event]| {
            let check = Check {
                who: Who::Person(7),
                interest: Interest::default(),
                truth: &truth,
                resumes: true,
                times: &[],
                undone: &undone,
            };
            check.run(events, true).map_err(|fault| fault.what)
        };
        use Kind::{Delete, Insert, Update};
        let (two, four) = (change(2, Insert, 2, 2), change(5, Insert, 4, 4));
        let (one, gone) = (change(6, Update, 1, 101), change(7, Delete, 1, 0));
        let end = change(10, Insert, 6, 6);
        let all = [
            Event::Connected,
            began(2, &[(1, 1)]),
            two.clone(),
            four.clone(),
            one.clone(),
            gone.clone(),
            end.clone(),
        ];
        assert_eq!(
            check(&all),
            Ok(Findings {
                changes: 5,
                ..Findings::default()
            })
        );
        for left_out in 2..all.len() {
            let mut events = all.to_vec();
            events.remove(left_out);
            let fault = check(&events).unwrap_err();
            let word = if left_out == 5 {
                "still shows"
            } else {
                "misses"
            };
            assert!(fault.contains(word), "{fault}");
        }
        for (place, event, word) in [
            (6, change(9, Insert, 5, 5), "LEAK"),
            (3, change(3, Delete, 1, 0), "no such delete"),
            (3, change(4, Insert, 9, 9), "no such change"),
            (3, change(4096, Insert, 9, 9), "no such transaction"),
            (3, two.clone(), "out of order"),
            (4, change(5, Insert, 4, 3), "left version 4"),
        ] {
            let mut events = all.to_vec();
            events.insert(place, event);
            let fault = check(&events).unwrap_err();
            assert!(fault.contains(word), "{fault}");
        }
        // A body may be left out, but is never another one.
        let mut events = all.to_vec();
        events[4] = with_body(6, Update, 1, 101, None);
        events[2] = with_body(2, Insert, 2, 2, None);
        assert_eq!(check(&events).map(|found| found.bodiless), Ok(1));
        events[4] = with_body(6, Update, 1, 101, Some(101));
        assert!(check(&events).unwrap_err().contains("the body of"));
        // A new connection may repeat what was not acknowledged.
        let mut events = all[..4].to_vec();
        events.extend([Event::Connected, two.clone(), four.clone()]);
        events.extend([one.clone(), gone.clone(), end.clone()]);
        assert_eq!(check(&events).map(|found| found.duplicates), Ok(2));
        let forgotten = [&events[..4], &[Event::Acknowledged(3)], &events[4..]].concat();
        assert_eq!(check(&forgotten).map(|found| found.repeated_late), Ok(1));
        events.insert(3, Event::Acknowledged(3));
        assert!(check(&events).unwrap_err().contains("acknowledged: 2/0"));
        // Who is told to start over, does.
        let mut events = all[..3].to_vec();
        events.extend([Event::Resync, began(10, &[(2, 2)]), end]);
        assert!(check(&events).is_ok());
        events.truncate(4);
        assert!(check(&events).unwrap_err().contains("never began"));
    }
}
