//! The whole way of a change but for the network and Postgres, with dice instead of both: a database whose commits become
//! visible late and in any order, the conductor, real sockets, and clients whose connections are cut at any moment.
//!
//! Time is virtual and nothing waits, so that a seed takes a few milliseconds at most and always does the same. In the end
//! of each seed everything that each client has received is held against what was committed.
//!
//! `WALCAST_SIMULATION_SEEDS=100000 cargo test --release --lib simulation` runs so many; `WALCAST_SIMULATION_FIRST` names the
//! first, so that a failure can be run alone.

mod client;
mod database;
mod world;

use std::time::Duration;

use world::{Totals, World};

/// What one seed does before everything comes to rest.
const STEPS: u32 = 250;

fn number_of(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// One seed from its beginning to its end, with or without its story.
fn run(seed: u64, tells: bool) -> (World, Result<(), String>) {
    let mut world = World::new(seed, tells);
    for _step in 0..STEPS {
        world.step();
    }
    world.rest();
    let outcome = world.check();
    (world, outcome)
}

#[test]
fn nothing_is_lost_leaked_or_reordered_whatever_happens_when() {
    let first = number_of("WALCAST_SIMULATION_FIRST", 0);
    let seeds = number_of("WALCAST_SIMULATION_SEEDS", 300);
    let started = crate::clock::instant();
    let mut totals = Totals::default();
    for seed in first..first + seeds {
        let (mut world, mut outcome) = run(seed, false);
        if outcome.is_err() {
            (world, outcome) = run(seed, true);
        }
        if let Err(fault) = outcome {
            panic!(
                "WALCAST_SIMULATION_FIRST={seed} WALCAST_SIMULATION_SEEDS=1: {fault}\n{}",
                world.story()
            );
        }
        totals.add(&world.totals());
    }
    let took = crate::clock::instant().saturating_duration_since(started);
    let each = took / u32::try_from(seeds.max(1)).unwrap_or(u32::MAX);
    println!("{seeds} seeds from {first}: {totals:?}, {each:?} each");
    assert!(seeds < 3000 || totals.is_of_everything(), "{totals:?}");
    assert!(each < Duration::from_secs(1));
}
