//! Lanes that wait for their first answer.

use super::*;

impl Bench {
    /// A transaction that is released at once. The first four rows are asked about together.
    fn release(&mut self, oid: u32, ids: std::ops::RangeInclusive<u64>) {
        let xid = self.next_xid;
        self.next_xid += 1;
        let rows = ids.map(|id| insert(id, "row")).collect();
        self.part(xid, oid, rows, true);
        self.see_all();
    }

    /// Answers the only open question: all of its rows are seen.
    fn same(&mut self, rows: usize) {
        let ask = self.question();
        self.answer(&ask, &vec![Found::Same; rows]);
    }

    /// Changes that came, without the last transaction's mark.
    fn rows(&mut self, connection: u64) -> Vec<String> {
        let read = self.read(connection);
        let changes = read.iter().filter(|text| text.starts_with("INSERT"));
        changes
            .map(|text| text.trim_end_matches('.').to_owned())
            .collect()
    }
}

fn inserts(ids: std::ops::RangeInclusive<u64>) -> Vec<String> {
    ids.map(|id| format!("INSERT {id} row")).collect()
}

#[test]
fn what_comes_before_the_first_answer_follows_it_in_order() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.release(MESSAGES, 1..=4);
    bench.release(MESSAGES, 5..=5);
    bench.release(OPEN, 6..=6);
    bench.release(MESSAGES, 7..=8);
    bench.release(MESSAGES, 9..=9);
    assert_eq!(bench.read(1), [""; 0]);
    bench.same(4);
    assert_eq!(bench.rows(1), inserts(1..=4));
    let rest = bench.question();
    bench.answer(
        &rest,
        &[Found::Same, Found::Same, Found::Same, Found::Missing],
    );
    assert_eq!(bench.rows(1), inserts(5..=8));
}

#[test]
fn a_version_that_was_superseded_meanwhile_is_merged_into_what_was_put_aside() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.release(MESSAGES, 1..=4);
    bench.commit(MESSAGES, update(1, "new"));
    bench.see_all();
    let first = bench.question();
    let found = [Found::Different, Found::Same, Found::Same, Found::Same];
    bench.answer(&first, &found);
    bench.same(1);
    bench.catch_up();
    let read = bench.read(1);
    assert_eq!(read.last().map(String::as_str), Some("INSERT 1 new."));
    assert_eq!(read.len(), 4);
}

#[test]
fn what_was_put_aside_is_denied_when_the_answer_never_comes() {
    const CROWD: u64 = 12;
    let mut bench = Bench::new();
    for connection in 1..=CROWD {
        bench.join(connection);
    }
    bench.release(MESSAGES, 1..=4);
    for id in 5..=104 {
        bench.release(MESSAGES, id..=id);
    }
    while let Some(place) = (bench.asked.iter()).position(|ask| ask.pool == Pool::New) {
        let ask = bench.asked.remove(place);
        assert_eq!(ask.question.rows.len(), 4, "so that one time-out tells");
        bench.reply(&ask, Err(Trouble::TimedOut));
    }
    let told = [format!("{:?}", Notice::PolicyTrouble("57014".into()))];
    let told = (1..=CROWD).filter(|connection| bench.read(*connection) == told);
    assert_eq!(told.count(), 5, "once most time out, once is enough");
    assert_eq!(bench.conductor.counts().settled.denied.not_asked, 500);
}

#[test]
fn a_new_token_takes_over_what_was_put_aside() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.release(MESSAGES, 1..=4);
    bench.release(MESSAGES, 5..=6);
    let old = bench.question();
    let command = Command::Identify {
        connection: 1,
        membership: 1,
        claims: claims("authenticated", "new"),
    };
    bench.conductor.handle_command(bench.now, command);
    bench.turn();
    let new = bench.question();
    bench.answer(&old, &[Found::Same; 4]);
    assert_eq!(bench.read(1), ["subscribed"]);
    bench.answer(&new, &[Found::Same; 6]);
    assert_eq!(bench.rows(1), inserts(1..=6));
}

#[test]
fn what_was_put_aside_for_others_is_no_business_of_who_joins_later() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.release(MESSAGES, 1..=4);
    bench.release(MESSAGES, 5..=5);
    let first = bench.question();
    bench.subscribe(2, claims("authenticated", "1"), false);
    bench.see_all();
    bench.release(MESSAGES, 6..=6);
    bench.answer(&first, &[Found::Same; 4]);
    bench.same(2);
    assert_eq!(bench.rows(1), inserts(1..=6));
    assert_eq!(bench.rows(2), inserts(6..=6));
}
