//! Who may see a row, where Postgres is asked: the test is the Postgres that answers.

use super::*;
use crate::catalog::{AccessMark, Catalog};
use crate::change::{Datum, TupleBuilder};
use crate::policy::Expected;

#[test]
fn a_change_reaches_who_postgres_says_may_see_it() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.commit(MESSAGES, insert(1, "hi"));
    assert!(
        bench.asked.is_empty(),
        "nothing is asked before a snapshot has shown the transaction"
    );
    bench.see_all();
    let ask = bench.question();
    assert_eq!(bench.read(1), [""; 0]);
    bench.answer(&ask, &[Found::Same]);
    assert_eq!(bench.read(1), ["INSERT 1 hi."]);
}

#[test]
fn what_grants_alone_decide_needs_no_question() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.commit(OPEN, insert(1, "hi"));
    bench.see_all();
    assert_eq!(bench.read(1), ["INSERT 1 hi."]);
}

#[test]
fn a_version_superseded_before_it_was_judged_is_merged_into_the_next() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.commit(MESSAGES, insert(1, "one"));
    bench.see_all();
    let first = bench.question();
    bench.answer(&first, &[Found::Different]);
    bench.commit(MESSAGES, update(1, "two"));
    bench.see_all();
    let second = bench.question();
    bench.answer(&second, &[Found::Same]);
    assert_eq!(bench.read(1), ["INSERT 1 two."]);
}

/// An update that leaves the body out as unchanged, and the old row.
fn leaving_body_out(id: &str) -> ChangeKind {
    let mut new = TupleBuilder::new();
    new.push(Datum::Text(id.as_bytes()));
    new.push(Datum::Unchanged);
    ChangeKind::Update {
        old: None,
        new: new.build(),
    }
}

/// Answers a question of one row that still reads as the version said, but perhaps not in what that left out.
fn still_there(bench: &mut Bench, ask: &Ask, as_supposed: bool) {
    let answer = Answer {
        found: Found::Same,
        as_supposed,
        predicates: Box::default(),
    };
    bench.reply(ask, Ok(vec![answer]));
}

/// A row that is superseded when it is asked about, by a version that leaves its body out.
fn insert_and_leave_alone(bench: &mut Bench) {
    bench.commit(MESSAGES, insert(1, "long"));
    bench.see_all();
    let first = bench.question();
    bench.answer(&first, &[Found::Different]);
    bench.commit(MESSAGES, leaving_body_out("1"));
    bench.see_all();
}

#[test]
fn a_value_that_the_last_of_merged_versions_leaves_out_is_that_of_the_one_before() {
    let mut bench = Bench::new();
    bench.join(1);
    let supposed = |text: &str| Expected::Supposed(text.as_bytes().into());
    // The first version waits for its successor when that comes.
    insert_and_leave_alone(&mut bench);
    let second = bench.question();
    let content = &second.question.rows[0].content;
    assert_eq!(content.last(), Some(&supposed("long")));
    still_there(&mut bench, &second, true);
    assert_eq!(bench.read(1), ["INSERT 1 long."]);
    // It waits for its answer, and there are two that leave the value out.
    bench.commit(MESSAGES, update(1, "longer"));
    bench.commit(MESSAGES, leaving_body_out("1"));
    bench.commit(MESSAGES, leaving_body_out("1"));
    bench.see_all();
    let all = bench.question();
    let contents = all.question.rows.iter();
    let contents: Vec<_> = contents.map(|row| row.content.last()).collect();
    let (first, others) = contents.split_first().unwrap();
    assert_eq!(*first, Some(&Expected::Text(b"longer".as_slice().into())));
    assert_eq!(*others, [Some(&supposed("longer")); 2]);
    bench.answer(&all, &[Found::Different, Found::Different, Found::Same]);
    assert_eq!(bench.read(1), ["UPDATE 1 longer."]);
}

#[test]
fn postgres_confirms_such_a_value_also_where_a_plan_allows_the_row() {
    let mut bench = Bench::compiling(true);
    let from = Lsn::new(u64::from(bench.next_xid) * 10 + 1);
    let known = old::knowledge("true", from);
    bench.conductor.expect_knowledge(Some(known));
    let read = catalog("a");
    bench.conductor.handle_catalog(bench.now, Some(read));
    bench.turn();
    bench.see_all();
    bench.join(1);
    // From before the plan.
    bench.commit(MESSAGES, insert(1, "long"));
    bench.see_all();
    let ask = bench.question();
    bench.answer(&ask, &[Found::Different]);
    bench.commit(MESSAGES, leaving_body_out("1"));
    bench.commit(MESSAGES, leaving_body_out("2"));
    bench.see_all();
    let ask = bench.question();
    assert_eq!(ask.question.rows.len(), 1);
    still_there(&mut bench, &ask, true);
    assert_eq!(bench.read(1), ["INSERT 1 long.", "UPDATE 2 -."]);
}

#[test]
fn a_value_of_the_version_before_that_does_not_read_so_any_more_is_not_sent() {
    let mut bench = Bench::new();
    bench.join(1);
    insert_and_leave_alone(&mut bench);
    let second = bench.question();
    still_there(&mut bench, &second, false);
    bench.commit(MESSAGES, update(1, "other"));
    bench.see_all();
    let third = bench.question();
    bench.answer(&third, &[Found::Same]);
    assert_eq!(bench.read(1), ["INSERT 1 -.", "UPDATE 1 other."]);
}

#[test]
fn what_was_told_before_is_left_out_of_an_update_as_it_came() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.commit(MESSAGES, insert(1, "long"));
    bench.commit(MESSAGES, leaving_body_out("1"));
    bench.see_all();
    let ask = bench.question();
    bench.answer(&ask, &[Found::Same, Found::Same]);
    assert_eq!(bench.read(1), ["INSERT 1 long.", "UPDATE 1 -."]);
}

#[test]
fn of_a_row_that_came_and_went_before_it_was_judged_the_end_is_told() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.commit(MESSAGES, insert(1, "one"));
    bench.commit(MESSAGES, insert(2, "other"));
    bench.see_all();
    let ask = bench.question();
    bench.answer(&ask, &[Found::Missing, Found::Same]);
    bench.commit(MESSAGES, delete(1));
    bench.see_all();
    bench.commit(MESSAGES, delete(2));
    bench.see_all();
    // Who read the table meanwhile may show it.
    assert_eq!(
        bench.read(1),
        ["INSERT 2 other.", "DELETE 1 -.", "DELETE 2 -."]
    );
}

const fn mark(rights: i64, file: u32) -> AccessMark {
    AccessMark { rights, file }
}

/// One change commits under another catalog than the one at hand, and one under the new one. So many questions are put.
fn around_a_catalog(after: Catalog, questions: usize) -> Bench {
    let mut bench = Bench::new();
    bench.join(1);
    let after = Arc::new(after);
    let horizon = |bench: &mut Bench| {
        assert!(std::mem::take(&mut bench.wants_horizon));
        let horizon = Horizon {
            snapshot: format!("{0}:{0}:", bench.next_xid).parse().unwrap(),
            insert_lsn: Lsn::new(u64::from(bench.next_xid) * 10),
            fingerprint: "b".into(),
        };
        bench.conductor.handle_horizon(bench.now, Some(horizon));
    };
    bench.commit(OPEN, insert(1, "then"));
    horizon(&mut bench);
    while let Some(output) = bench.conductor.poll_output() {
        match output {
            Output::LoadCatalog => bench
                .conductor
                .handle_catalog(bench.now, Some(Arc::clone(&after))),
            Output::TakeHorizon => bench.wants_horizon = true,
            _ => {}
        }
    }
    horizon(&mut bench);
    bench.turn();
    assert_eq!(bench.asked.len(), questions);
    for ask in std::mem::take(&mut bench.asked) {
        bench.answer(&ask, &[Found::Missing]);
    }
    bench.commit(OPEN, insert(2, "now"));
    horizon(&mut bench);
    bench.turn();
    bench
}

#[test]
fn what_committed_under_other_grants_is_asked_about() {
    let mut after = Arc::into_inner(catalog("b")).unwrap();
    let mut open = Arc::into_inner(table(OPEN, false)).unwrap();
    open.access.remove("anon");
    after.tables.insert(OPEN, Arc::new(open));
    assert_eq!(around_a_catalog(after, 1).read(1), ["INSERT 2 now."]);
}

#[test]
fn what_committed_while_grants_came_and_went_is_asked_about() {
    let mut after = Arc::into_inner(catalog("b")).unwrap();
    after.access_marks.insert(OPEN, mark(1, 0));
    assert_eq!(around_a_catalog(after, 1).read(1), ["INSERT 2 now."]);
}

#[test]
fn what_committed_while_the_table_was_altered_is_not() {
    let mut after = Arc::into_inner(catalog("b")).unwrap();
    let mut open = Arc::into_inner(table(OPEN, false)).unwrap();
    open.identity = ReplicaIdentity::Full;
    after.tables.insert(OPEN, Arc::new(open));
    after.access_marks.insert(OPEN, mark(1, 0));
    assert_eq!(
        around_a_catalog(after, 0).read(1),
        ["INSERT 1 then.", "INSERT 2 now."]
    );
}

#[test]
fn what_committed_while_the_table_was_emptied_is_not() {
    let mut after = Arc::into_inner(catalog("b")).unwrap();
    after.access_marks.insert(OPEN, mark(1, 1));
    assert_eq!(
        around_a_catalog(after, 0).read(1),
        ["INSERT 1 then.", "INSERT 2 now."]
    );
}

#[test]
fn what_committed_while_others_were_granted_is_not() {
    let mut after = Arc::into_inner(catalog("b")).unwrap();
    after.access_marks.insert(MESSAGES, mark(1, 0));
    assert_eq!(
        around_a_catalog(after, 0).read(1),
        ["INSERT 1 then.", "INSERT 2 now."]
    );
}

#[test]
fn a_hidden_row_is_no_loss_and_an_unconfirmed_one_is() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.commit(MESSAGES, insert(1, "hidden"));
    bench.see_all();
    let ask = bench.question();
    bench.answer(&ask, &[Found::Missing]);
    bench.catch_up();
    assert_eq!(bench.read(1), [""; 0]);
    bench.commit(MESSAGES, insert(2, "rewritten"));
    bench.see_all();
    let ask = bench.question();
    bench.answer(&ask, &[Found::Different]);
    bench.catch_up();
    assert_eq!(
        bench.read(1),
        [format!(
            "{:?}",
            Notice::Resync(ResyncReason::VerdictUnknown)
        )]
    );
}

#[test]
fn the_row_that_raises_is_found_and_the_others_are_delivered() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.part(
        100,
        MESSAGES,
        vec![insert(1, "good"), insert(2, "bad")],
        true,
    );
    bench.horizon(101);
    let both = bench.question();
    bench.reply(&both, Err(Trouble::Raised("22P02".into())));
    let good = bench.question();
    bench.answer(&good, &[Found::Same]);
    let bad = bench.question();
    assert_eq!(bad.question.rows.len(), 1);
    bench.reply(&bad, Err(Trouble::Raised("22P02".into())));
    let told = format!("{:?}", Notice::PolicyTrouble("22P02".into()));
    assert_eq!(bench.read(1), [told, "INSERT 1 good.".to_owned()]);
}

#[test]
fn a_policy_that_names_what_is_not_there_is_told_apart_from_an_old_catalog_by_a_snapshot() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.join(2);
    let missing = || Err(Trouble::Raised("42703".into()));
    let commit = |bench: &mut Bench, id| {
        bench.commit(MESSAGES, insert(id, "hi"));
        bench.see_all();
        // The lane of the first subscriber is the first.
        bench.asked.sort_by_key(|ask| ask.lane);
        let (first, sound) = (bench.asked.remove(0), bench.asked.remove(0));
        bench.answer(&sound, &[Found::Same]);
        assert_eq!(bench.read(2), [format!("INSERT {id} hi.")]);
        first
    };
    let raising = commit(&mut bench, 1);
    bench.reply(&raising, missing());
    assert!(bench.asked.is_empty(), "it waits for a snapshot");
    // The catalog is the database's: it asks once more.
    bench.see_all();
    let again = bench.question();
    bench.reply(&again, missing());
    let told = format!("{:?}", Notice::PolicyTrouble("42703".into()));
    assert_eq!(bench.read(1), [told]);
    // It is known now, and costs no more than any other error.
    let raising = commit(&mut bench, 2);
    bench.reply(&raising, missing());
    assert!(bench.asked.is_empty() && !bench.wants_horizon);
    assert_eq!(bench.read(1), [""; 0]);
    // It recovers, and raises because the catalog is old.
    let well = commit(&mut bench, 3);
    bench.answer(&well, &[Found::Same]);
    assert_eq!(bench.read(1), ["INSERT 3 hi."]);
    let old = commit(&mut bench, 4);
    bench.reply(&old, missing());
    bench.fingerprint = "b";
    bench.see_all();
    let renewed = bench.question();
    bench.answer(&renewed, &[Found::Same]);
    assert_eq!(bench.read(1), ["INSERT 4 hi."]);
}

#[test]
fn only_a_question_of_few_rows_tells_that_an_identity_is_slow() {
    for (rows, pool) in [(10, Pool::Proven), (1, Pool::Quarantine)] {
        let mut bench = Bench::new();
        bench.join(1);
        let inserts = (0..rows).map(|id| insert(id, "one of them")).collect();
        bench.part(100, MESSAGES, inserts, true);
        bench.horizon(101);
        let ask = bench.question();
        let same = Answer {
            found: Found::Same,
            as_supposed: true,
            predicates: Box::default(),
        };
        let answers = vec![same; ask.question.rows.len()];
        bench.reply_after(Duration::from_secs(1), &ask, Ok(answers));
        bench.part(101, MESSAGES, vec![insert(100, "next")], true);
        bench.horizon(102);
        assert_eq!(bench.question().pool, pool, "after a question of {rows}");
    }
}

#[test]
fn who_times_out_is_asked_apart_and_then_told() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.join(2);
    bench.commit(MESSAGES, insert(1, "hi"));
    bench.see_all();
    assert_eq!(bench.asked.len(), 2);
    let (slow, sound) = (bench.asked.remove(0), bench.asked.remove(0));
    bench.reply(&slow, Err(Trouble::TimedOut));
    bench.answer(&sound, &[Found::Same]);
    assert_eq!(bench.read(2), ["INSERT 1 hi."]);
    for _ in 0..3 {
        let again = bench.question();
        assert_eq!(again.pool, Pool::Quarantine);
        bench.reply(&again, Err(Trouble::TimedOut));
    }
    let told = format!("{:?}", Notice::PolicyTrouble("57014".into()));
    assert_eq!(bench.read(1), [told]);
    bench.commit(MESSAGES, insert(2, "while away"));
    bench.see_all();
    let sound = bench.question();
    assert_eq!(sound.pool, Pool::Proven, "only the sound one is asked");
    bench.answer(&sound, &[Found::Same]);
    // Asked again after its pause, and answered: what was denied in between may have been visible.
    bench.now += Duration::from_secs(3);
    bench.commit(MESSAGES, insert(3, "back"));
    bench.see_all();
    assert_eq!(bench.asked.len(), 2);
    let back = bench
        .asked
        .iter()
        .position(|ask| ask.pool == Pool::Quarantine)
        .unwrap();
    let back = bench.asked.remove(back);
    bench.answer(&back, &[Found::Same]);
    assert_eq!(
        bench.read(1).last(),
        Some(&format!(
            "{:?}",
            Notice::Resync(ResyncReason::VerdictUnknown)
        ))
    );
}

#[test]
fn who_asks_about_a_locked_table_waits_apart() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.join(2);
    bench.commit(MESSAGES, insert(1, "hi"));
    bench.see_all();
    for ask in std::mem::take(&mut bench.asked) {
        bench.reply(&ask, Err(Trouble::Locked));
    }
    assert!(bench.asked.is_empty(), "not asked again at once");
    bench.now = bench.conductor.next_timeout().unwrap();
    bench.conductor.handle_timeout(bench.now);
    bench.turn();
    let first = bench.question();
    bench.answer(&first, &[Found::Same]);
    let second = bench.question();
    bench.answer(&second, &[Found::Same]);
    assert_eq!(bench.read(1), ["INSERT 1 hi."]);
    assert_eq!(bench.read(2), ["INSERT 1 hi."]);
}

#[test]
fn a_broken_connection_only_delays_the_question() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.commit(MESSAGES, insert(1, "hi"));
    bench.see_all();
    let ask = bench.question();
    bench
        .conductor
        .handle_answer(bench.now, ask.lane, ask.pool, None);
    bench.turn();
    let again = bench.question();
    bench.answer(&again, &[Found::Same]);
    assert_eq!(bench.read(1), ["INSERT 1 hi."]);
}

#[test]
fn a_crowd_is_gone_through_in_pieces_and_everybody_gets_everything_in_order() {
    const CROWD: u64 = 300;
    let mut bench = Bench::new();
    for connection in 1..=CROWD {
        bench.join(connection);
    }
    // The second and the third find lanes that wait for an answer to the first.
    for row in ["one", "two", "three"] {
        bench.commit(MESSAGES, insert(1, row));
        bench.see_all();
    }
    while let Some(ask) = bench.asked.pop() {
        let found = vec![Found::Same; ask.question.rows.len()];
        bench.answer(&ask, &found);
    }
    for connection in 1..=CROWD {
        let told = ["INSERT 1 one.", "INSERT 1 two.", "INSERT 1 three."];
        assert_eq!(bench.read(connection), told);
    }
}
