//! Many go through the past at the same time.

use super::old::knowledge;
use super::replay::cursor;
use super::*;

/// What the policy compares the body of a row with.
fn body(subject: u64) -> String {
    format!("{{\"sub\":\"{subject}\"}}")
}

/// Nobody is there yet. Each sees the rows with its own claims in them; of what committed before `from` only Postgres says
/// who saw it then.
fn begun(from: u64) -> Bench {
    let qual = "(body = current_setting('request.jwt.claims'::text, true))";
    let mut bench = Bench::compiling(true);
    let knowledge = knowledge(qual, Lsn::new(from));
    bench.conductor.expect_knowledge(Some(knowledge));
    (bench.conductor).handle_catalog(bench.now, Some(catalog("a")));
    bench.turn();
    bench.see_all();
    bench.join(1);
    let plans = bench.conductor.policy_state().plans;
    assert!(plans.iter().all(|plan| plan.compiled), "{plans:?}");
    let command = Command::Unsubscribe {
        connection: 1,
        membership: 1,
    };
    bench.conductor.handle_command(bench.now, command);
    bench.turn();
    bench
}

impl Bench {
    /// These come back at once, each after a transaction.
    fn come_back(&mut self, who: &[(u64, u32)]) {
        for (connection, after) in who {
            self.ask(*connection, &[&cursor(1, *after, 0)]);
        }
        // The first snapshot was asked for when only one of them was there.
        self.see_all();
        self.see_all();
        // The tables are those of now.
        self.catch_up();
        self.go_through();
    }

    /// Answers all questions, until there are none: everything is as it was.
    fn answer_all(&mut self) -> Vec<(u64, usize)> {
        let mut asked = Vec::new();
        while !self.asked.is_empty() {
            let ask = self.asked.remove(0);
            let subject = ask.question.identity.claims().split('"').nth(3).unwrap();
            asked.push((subject.parse().unwrap(), ask.question.rows.len()));
            self.answer(&ask, &vec![Found::Same; ask.question.rows.len()]);
            self.go_through();
        }
        asked.sort_unstable();
        asked
    }
}

#[test]
fn each_gets_its_own_from_where_it_was_and_only_that_is_asked_about() {
    let mut bench = begun(1395);
    // Transactions 100 and on, row 1 and on, of 2, 3, 4 and nobody in turn.
    for id in 1..=40 {
        bench.commit(MESSAGES, insert(id, &body(2 + (id - 1) % 4)));
    }
    let before = bench.conductor.passed_over().denied;
    bench.come_back(&[(2, 99), (3, 99), (4, 119)]);
    let asked = bench.answer_all();
    let count = |who| -> usize {
        let of = asked.iter().filter(|(subject, _)| *subject == who);
        of.map(|(_, rows)| rows).sum()
    };
    assert_eq!((count(2), count(3), count(4)), (10, 10, 5));
    let expected = |who: u64, from: u64| -> Vec<String> {
        let own = (from..=40).filter(|id| 2 + (id - 1) % 4 == who);
        let own = own.map(|id| format!("INSERT {id} {}.", body(who)));
        std::iter::once("subscribed".to_owned())
            .chain(own)
            .collect()
    };
    assert_eq!(bench.read(2), expected(2, 1));
    assert_eq!(bench.read(3), expected(3, 1));
    assert_eq!(bench.read(4), expected(4, 21));
    let passed = bench.conductor.passed_over().denied - before;
    // With the one that the last of them had already.
    assert_eq!(
        passed,
        30 + 30 + 16,
        "nobody looked at these for themselves"
    );
    // They are live, and what commits is judged here.
    bench.commit(MESSAGES, insert(41, &body(3)));
    bench.see_all();
    assert!(bench.asked.is_empty());
    assert_eq!(bench.read(2), [] as [&str; 0]);
    assert_eq!(bench.read(3), [format!("INSERT 41 {}.", body(3))]);
}

#[test]
fn who_waits_for_a_verdict_hears_what_became_of_the_row() {
    let mut bench = begun(5000);
    bench.commit(MESSAGES, insert(1, &body(2)));
    bench.commit(MESSAGES, update(1, &body(3)));
    bench.commit(MESSAGES, insert(2, &body(2)));
    bench.commit(MESSAGES, update(2, "nobody"));
    bench.commit(MESSAGES, update(2, &body(2)));
    bench.come_back(&[(2, 99), (3, 99)]);
    let mut answered = 0;
    while !bench.asked.is_empty() {
        let ask = bench.asked.remove(0);
        let rows = ask.question.rows.len();
        let found = match (ask.question.identity.claims(), rows) {
            // All versions of both rows: the first is another's by now.
            (claims, 5) if claims == body(2) => [
                Found::Missing,
                Found::Missing,
                Found::Different,
                Found::Different,
                Found::Same,
            ]
            .to_vec(),
            (claims, 1) if claims == body(3) => vec![Found::Same],
            (claims, rows) => panic!("{claims} {rows}"),
        };
        answered += 1;
        bench.answer(&ask, &found);
        bench.go_through();
    }
    assert_eq!(answered, 2);
    bench.catch_up();
    bench.go_through();
    assert_eq!(
        bench.read(2),
        ["subscribed".to_owned(), format!("INSERT 2 {}.", body(2))]
    );
    assert_eq!(
        bench.read(3),
        ["subscribed".to_owned(), format!("UPDATE 1 {}.", body(3))]
    );
}

#[test]
fn what_was_deleted_is_told_to_those_who_were_shown_it() {
    let mut bench = begun(0);
    bench.commit(MESSAGES, insert(1, &body(2)));
    bench.commit(MESSAGES, insert(2, &body(3)));
    bench.commit(MESSAGES, delete(1));
    bench.commit(MESSAGES, delete(2));
    bench.come_back(&[(2, 99), (3, 99), (4, 99)]);
    assert!(bench.asked.is_empty(), "the plan says what was seen and is");
    let told = |who: u64, row: u64| {
        vec![
            "subscribed".to_owned(),
            format!("INSERT {row} {}.", body(who)),
            format!("DELETE {row} -."),
        ]
    };
    assert_eq!(bench.read(2), told(2, 1));
    assert_eq!(bench.read(3), told(3, 2));
    assert_eq!(bench.read(4), ["subscribed"]);
}

#[test]
fn transactions_in_parts_are_ended_for_those_who_got_something_of_them() {
    let mut bench = begun(0);
    // Nothing of the last part is anybody's.
    let rows = |from: u64, subject| {
        (from..from + 300)
            .map(|id| insert(id, &body(subject)))
            .collect()
    };
    bench.part(100, MESSAGES, rows(1, 2), false);
    bench.part(100, MESSAGES, rows(301, 9), true);
    bench.next_xid = 101;
    bench.commit(OPEN, insert(1, "open"));
    bench.come_back(&[(2, 99), (3, 99), (4, 100)]);
    bench.answer_all();
    let read = bench.read(2);
    assert_eq!(read.len(), 302);
    assert_eq!(read.iter().filter(|line| line.ends_with('.')).count(), 2);
    assert!(read[300].ends_with('.'), "{}", read[300]);
    for who in [3, 4] {
        assert_eq!(bench.read(who), ["subscribed", "INSERT 1 open."]);
    }
}
