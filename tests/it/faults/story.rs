//! What is told of a fault: what the client lived through around it, and what the server's log says of its connections at
//! that time. The whole of both is kept in files.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use super::World;
use super::client::{Client, Millis};
use super::model::brief;

/// Enough to follow a session, and no line per change.
pub(crate) const LOG_LEVEL: &str = "info,tokio_postgres=warn,walcast::server=debug,\
    walcast::pipeline::sessions=debug,walcast::pipeline::conductor=debug";
/// Stories that are printed.
const STORIES_MAX: usize = 3;
/// Of the log, around the moment.
const AROUND: Millis = 5000;
const LINES_MAX: usize = 150;

/// Prints some stories, and writes all to files beside the whole log.
pub(crate) fn tell(seed: u64, world: &World, stories: &[(String, &Client, usize)], metrics: &str) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("faults-{seed}"));
    std::fs::create_dir_all(&folder).unwrap();
    let log = world.server.log();
    std::fs::write(folder.join("log"), &log).unwrap();
    std::fs::write(folder.join("metrics"), metrics).unwrap();
    for (number, (fault, client, near)) in stories.iter().enumerate() {
        let diary = diary(client, 0, Millis::MAX);
        let file = folder.join(format!("client-{}", client.number));
        std::fs::write(file, format!("{fault}\n{diary}")).unwrap();
        if number >= STORIES_MAX {
            continue;
        }
        let times = &client.times;
        let time = (times.get(*near).or(times.last()))
            .copied()
            .unwrap_or_default();
        let (from, until) = (time.saturating_sub(AROUND), time.saturating_add(AROUND));
        let (mine, rest) = (
            diary_lines(client, from, until),
            log_of(&log, client, from, until),
        );
        println!("--- {fault}\n--- its diary\n{mine}\n--- the log\n{rest}");
    }
    println!("all of it: {}", folder.display());
}

fn diary_lines(client: &Client, from: Millis, until: Millis) -> String {
    let text = diary(client, from, until);
    let lines: Vec<&str> = text.lines().collect();
    let skipped = lines.len().saturating_sub(LINES_MAX) / 2;
    lines[skipped..lines.len() - skipped].join("\n")
}

/// Events and notes, by time.
fn diary(client: &Client, from: Millis, until: Millis) -> String {
    let events = client.events.iter().zip(&client.times).enumerate();
    let events =
        events.map(|(number, (event, time))| (*time, format!("{number} {}", brief(event))));
    let notes = client.diary.iter().cloned();
    let mut all: Vec<(Millis, String)> = notes.chain(events).collect();
    all.sort_by_key(|(time, _)| *time);
    let mut text = String::new();
    for (time, what) in all {
        if (from..=until).contains(&time) {
            writeln!(text, "{} {what}", clock(time)).unwrap();
        }
    }
    text
}

/// What the log says of this client's connections.
fn log_of(log: &str, client: &Client, from: Millis, until: Millis) -> String {
    let mut connections = BTreeSet::new();
    let mut text = String::new();
    for line in log.lines() {
        // A new process counts from the beginning.
        if line.contains(": listening ") {
            connections.clear();
        }
        let number = connection_of(line);
        if line.ends_with(&format!("topic=\"{}\"", client.topic())) {
            connections.extend(number);
        }
        let concerns = number.is_none_or(|number| connections.contains(&number));
        let time = line.get(11..23).unwrap_or_default();
        if concerns && (&*clock(from)..=&*clock(until)).contains(&time) {
            writeln!(text, "{line}").unwrap();
        }
    }
    text
}

/// The connection that a line of the log is about.
fn connection_of(line: &str) -> Option<u64> {
    let name = ["socket{number=", "connection="];
    let place = name
        .iter()
        .find_map(|name| Some(line.find(name)? + name.len()))?;
    let digits = line[place..]
        .split(|letter: char| !letter.is_ascii_digit())
        .next()?;
    digits.parse().ok()
}

/// The time of day, as the log writes it.
fn clock(time: Millis) -> String {
    let (seconds, millis) = (time / 1000 % 86400, time % 1000);
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{millis:03}", seconds % 60)
}
