//! Subscribers that are given another token.

use super::*;

#[test]
fn what_is_owed_again_in_the_same_lane_comes_once() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.subscribe(2, claims("anon", "-"), true);
    bench.see_all();
    bench.commit(MESSAGES, insert(1, "hi"));
    bench.see_all();
    let is_anon = |ask: &Ask| ask.question.identity.role() == "anon";
    let place = bench.asked.iter().position(is_anon).unwrap();
    let hidden = bench.asked.remove(place);
    bench.answer(&hidden, &[Found::Missing]);
    // Its token makes it another tab of the first one's user, whose question is still open; and comes twice.
    let open = bench.question();
    for _token in 0..2 {
        bench.conductor.handle_command(
            bench.now,
            Command::Identify {
                connection: 2,
                membership: 1,
                claims: claims("authenticated", "1"),
            },
        );
        bench.turn();
    }
    bench.answer(&open, &[Found::Same]);
    while let Some(ask) = bench.asked.pop() {
        bench.answer(&ask, &vec![Found::Same; ask.question.rows.len()]);
    }
    assert_eq!(bench.read(1), ["INSERT 1 hi."]);
    let mut read = bench.read(2);
    read.retain(|told| told != "subscribed");
    assert_eq!(read, ["INSERT 1 hi."]);
}

#[test]
fn what_one_is_given_ends_nobody_elses_transaction() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.subscribe(2, claims("anon", "-"), true);
    bench.see_all();
    bench.commit(MESSAGES, insert(1, "hi"));
    bench.see_all();
    for ask in std::mem::take(&mut bench.asked) {
        let is_anon = ask.question.identity.role() == "anon";
        bench.answer(&ask, &[if is_anon { Found::Missing } else { Found::Same }]);
    }
    assert_eq!(bench.read(1), ["INSERT 1 hi."]);
    let xid = bench.next_xid;
    bench.next_xid += 1;
    bench.part(xid, OPEN, vec![insert(5, "five")], false);
    bench.see_all();
    // It becomes another tab of the first one's user, and is given what was kept.
    bench.conductor.handle_command(
        bench.now,
        Command::Identify {
            connection: 2,
            membership: 1,
            claims: claims("authenticated", "1"),
        },
    );
    bench.turn();
    let ask = bench.question();
    bench.answer(&ask, &[Found::Same]);
    bench.part(xid, OPEN, vec![insert(6, "six")], true);
    bench.see_all();
    assert_eq!(bench.read(1), ["INSERT 5 five", "INSERT 6 six."]);
}

#[test]
fn a_transaction_of_which_something_is_kept_has_not_ended() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.subscribe(2, claims("anon", "-"), true);
    bench.see_all();
    assert_eq!(bench.read(2), ["subscribed"]);
    let xid = bench.next_xid;
    bench.next_xid += 1;
    bench.part(xid, OPEN, vec![insert(5, "five")], false);
    bench.part(xid, MESSAGES, vec![insert(1, "hi")], true);
    bench.see_all();
    for ask in std::mem::take(&mut bench.asked) {
        bench.answer(&ask, &[Found::Hidden]);
    }
    // Its binding stands for other tables from now on, so that it changes lanes without a token.
    let mut after = Arc::into_inner(catalog("b")).unwrap();
    after.tables.remove(&UNBOUND);
    bench.fingerprint = "b";
    bench
        .conductor
        .handle_catalog(bench.now, Some(Arc::new(after)));
    bench.turn();
    assert_eq!(bench.read(2), [""; 0]);
    bench.conductor.handle_command(
        bench.now,
        Command::Identify {
            connection: 2,
            membership: 1,
            claims: claims("authenticated", "2"),
        },
    );
    bench.turn();
    let ask = bench.question();
    bench.answer(&ask, &[Found::Same]);
    assert_eq!(
        bench.read(2),
        ["subscribed", "INSERT 5 five", "INSERT 1 hi."]
    );
}

#[test]
fn a_token_right_after_the_join_is_given_what_came_before_it() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.subscribe(2, claims("anon", "nobody"), true);
    bench.see_all();
    assert_eq!(bench.read(2), ["subscribed"]);
    bench.commit(MESSAGES, insert(1, "between"));
    bench.see_all();
    for ask in std::mem::take(&mut bench.asked) {
        bench.answer(&ask, &[Found::Hidden]);
    }
    assert_eq!(bench.read(2), [""; 0]);
    let command = Command::Identify {
        connection: 2,
        membership: 1,
        claims: claims("authenticated", "2"),
    };
    bench.conductor.handle_command(bench.now, command);
    bench.turn();
    let ask = bench.question();
    assert_eq!(ask.question.identity.role(), "authenticated");
    bench.answer(&ask, &[Found::Same]);
    assert_eq!(bench.read(2), ["subscribed", "INSERT 1 between."]);
}

#[test]
fn a_new_token_takes_over_what_is_still_undecided() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.commit(MESSAGES, insert(1, "hi"));
    bench.see_all();
    let old = bench.question();
    let command = Command::Identify {
        connection: 1,
        membership: 1,
        claims: claims("authenticated", "new"),
    };
    bench.conductor.handle_command(bench.now, command);
    bench.turn();
    let new = bench.question();
    bench.answer(&old, &[Found::Same]);
    assert_eq!(
        bench.read(1),
        ["subscribed"],
        "the old token no longer counts"
    );
    bench.answer(&new, &[Found::Same]);
    assert_eq!(bench.read(1), ["INSERT 1 hi."]);
}
