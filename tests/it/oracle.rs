//! Verdicts in the stream held against Postgres itself: generated tables, policies, functions, roles and claims, and
//! transactions that change rows, memberships and policies. After each commit Postgres is asked for every verdict, as
//! every subscriber, and each of them must have got exactly the changes that it says. Old rows are asked for as of before
//! the transaction: none of them may be shown to who had not seen it, no DELETE kept from who had.
//!
//! `make oracle` runs it for a minute; `WALCAST_ORACLE_SECONDS` says how long, `WALCAST_ORACLE_WORLD` how many seconds one
//! world lasts, `WALCAST_ORACLE_SEED` repeats the dice of the first world, `WALCAST_ORACLE_IDENTITIES` says how many
//! listen, `WALCAST_ORACLE_TIMES` how many times the usual statements a transaction has (more verdicts in the same time),
//! `WALCAST_ORACLE_DIFFERENCES` how many differences end the search, `WALCAST_ORACLE_SAMPLES=1` shows verdicts that were
//! stricter than Postgres', and `WALCAST_ORACLE_HISTORY` names a file for the statements that led to a difference, beside
//! which the server's log comes.

mod claims;
mod conditions;
mod dice;
mod forms;
mod judge;
mod listener;
mod model;
mod old;
mod report;
mod rows;
mod run;
mod schema;
mod transactions;
mod written;

use std::time::{Duration, Instant};

use report::Tally;
use run::World;

/// How long one world lasts, in seconds.
const WORLD: u64 = 45;
/// Differences after which no further world is begun.
const DIFFERENCES_MAX: u64 = 5;

/// Of what hardly counts: one policy in a short run may weigh so much.
const SOME: u64 = 4000;

/// The first world of a short run.
const SEED: u32 = 3_565_692_945;

fn number_of(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

#[tokio::test]
async fn verdicts_in_the_stream_are_those_of_postgres() {
    let seconds = number_of("WALCAST_ORACLE_SECONDS", 24);
    // The same worlds each time, unless somebody looks for new ones.
    let is_search = std::env::var("WALCAST_ORACLE_SECONDS").is_ok();
    let dice = if is_search { rand::random() } else { SEED };
    let first = number_of("WALCAST_ORACLE_SEED", dice.into());
    let identities = usize::try_from(number_of("WALCAST_ORACLE_IDENTITIES", 96)).unwrap();
    let differences = number_of("WALCAST_ORACLE_DIFFERENCES", DIFFERENCES_MAX);
    let differences = usize::try_from(differences).unwrap();
    println!(
        "WALCAST_ORACLE_SECONDS={seconds} WALCAST_ORACLE_SEED={first} WALCAST_ORACLE_IDENTITIES={identities}"
    );
    let all = Duration::from_secs(seconds);
    let world = Duration::from_secs(number_of("WALCAST_ORACLE_WORLD", WORLD)).min(all / 2);
    let started = Instant::now();
    let mut tally = Tally::default();
    let mut seed = first;
    while started.elapsed() < all && tally.differences.len() < differences {
        let mut one = World::start(seed, identities).await;
        one.run(world).await;
        println!("seed {seed}: {}", one.tally);
        for difference in &one.tally.differences {
            println!("{difference}");
        }
        if std::env::var_os("WALCAST_ORACLE_SAMPLES").is_some() {
            for sample in &one.tally.samples {
                println!("stricter: {sample}");
            }
        }
        tally.add(std::mem::take(&mut one.tally));
        seed += 1;
    }
    println!("left to Postgres:\n{}", tally.refusals());
    println!("all: {tally}");
    assert!(tally.differences.is_empty(), "Postgres says otherwise");
    assert!(
        tally.compiled_percent() >= 40,
        "Postgres was held against itself: {tally}"
    );
    // A condition that raises for an old row leaves it unjudged, also where Postgres does not come to evaluate it.
    assert!(
        tally.past.unjudged_despite_plan * 5 <= tally.past.judged_by_plan + SOME,
        "old rows that could be judged were not: {tally}"
    );
    assert!(
        tally.past.judged * 50 + SOME > tally.past.unjudged,
        "hardly any old row was judged: {tally}"
    );
    assert!(
        tally.allowed * 50 > tally.verdicts(),
        "hardly anything was allowed: {tally}"
    );
    assert!(
        tally.stricter * 2 < tally.allowed,
        "raising is no excuse for so much: {tally}"
    );
}
