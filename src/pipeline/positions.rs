//! The positions of those who may come back, on disk (*io*), so that they outlive the process.
//!
//! One file of lines, only ever appended to, and written anew when most of it is outdated. What a crash leaves of the last
//! line is ignored. A file that is not there, or makes no sense, means that nobody can be told from a stranger: for a day
//! whoever is not known is told to start over. A store for several processes would take this module's place.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::conductor::Conductor;
use super::sessions::{Holder, Place, Record};
use crate::change::Cursor;
use crate::clock;

/// The first line; another one is of another format.
const HEAD: &str = "walcast sessions 1";
/// The file's name.
const NAME: &str = "sessions";
/// So long after a start without knowledge, unknown sessions may have been.
const FORGET_AFTER: Duration = Duration::from_secs(24 * 3600);
/// Lines beyond which a file is written anew if most of them are outdated.
const LINES_MIN: usize = 10_000;
/// Batches that wait to be written; beyond, they gather.
const BATCHES_MAX: usize = 16;

/// What is known of a session.
type Known = HashMap<(Place, Holder), Cursor>;

/// Reads what is there, gives it to the conductor, and begins to write. Without a directory nothing outlives the process.
pub(super) fn start(
    directory: Option<&Path>,
    conductor: &mut Conductor,
    tasks: &TaskTracker,
) -> Option<mpsc::Sender<Vec<Record>>> {
    let now = clock::instant();
    let doubtful = now.checked_add(FORGET_AFTER);
    let Some(directory) = directory else {
        conductor.sessions().load(now, [], doubtful, false);
        (conductor.heard_sessions()).load(now, [], doubtful, false);
        return None;
    };
    let path = directory.join(NAME);
    let (known, is_whole) = read(&path);
    if !is_whole {
        tracing::warn!(path = %path.display(), "the positions of earlier sessions are not (all) known; whoever comes back unknown is told to start over");
    }
    let records = known.iter().map(|((place, holder), cursor)| Record {
        place: *place,
        holder: *holder,
        cursor: Some(*cursor),
    });
    let doubtful = doubtful.filter(|_| !is_whole);
    let (heard, changed): (Vec<Record>, Vec<Record>) =
        records.partition(|record| record.place.is_of_room());
    conductor.sessions().load(now, changed, doubtful, true);
    (conductor.heard_sessions()).load(now, heard, doubtful, true);
    let file = match rewrite(&path, &known) {
        Ok(file) => file,
        Err(error) => {
            tracing::error!(%error, path = %path.display(), "cannot write the positions of sessions");
            return None;
        }
    };
    let store = Store {
        path,
        lines: known.len(),
        known,
        file,
    };
    let (batches, batches_in) = mpsc::channel(BATCHES_MAX);
    tasks.spawn(write(store, batches_in));
    Some(batches)
}

struct Store {
    path: PathBuf,
    known: Known,
    file: File,
    /// Of the file, without the first.
    lines: usize,
}

/// Ends with the conductor, so that what it says last is written as well.
async fn write(mut store: Store, mut batches: mpsc::Receiver<Vec<Record>>) {
    while let Some(batch) = batches.recv().await {
        let written = tokio::task::spawn_blocking(move || {
            let outcome = store.append(&batch);
            (store, outcome)
        });
        let Ok((returned, outcome)) = written.await else {
            return;
        };
        store = returned;
        if let Err(error) = outcome {
            tracing::error!(%error, path = %store.path.display(), "cannot write the positions of sessions");
        }
    }
}

impl Store {
    fn append(&mut self, batch: &[Record]) -> io::Result<()> {
        let mut text = String::new();
        for record in batch {
            let key = (record.place, record.holder);
            match record.cursor {
                Some(cursor) => self.known.insert(key, cursor),
                None => self.known.remove(&key),
            };
            text.push_str(&line(record));
        }
        self.lines = self.lines.saturating_add(batch.len());
        if self.lines > LINES_MIN && self.lines / 4 > self.known.len() {
            self.file = rewrite(&self.path, &self.known)?;
            self.lines = self.known.len();
            return Ok(());
        }
        self.file.write_all(text.as_bytes())
    }
}

/// What the file says, and whether that is all.
fn read(path: &Path) -> (Known, bool) {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            tracing::debug!(%error, path = %path.display(), "no positions of sessions");
            return (Known::new(), false);
        }
    };
    let mut known = Known::new();
    // A line that a crash has cut off has no end.
    let whole = text.rfind('\n').map_or("", |end| text.split_at(end).0);
    let mut lines = whole.split('\n');
    let mut is_whole = lines.next() == Some(HEAD);
    for line in lines {
        match parse(line) {
            Some(Record {
                place,
                holder,
                cursor: Some(cursor),
            }) => {
                known.insert((place, holder), cursor);
            }
            Some(Record { place, holder, .. }) => {
                known.remove(&(place, holder));
            }
            None => is_whole = false,
        }
    }
    (known, is_whole)
}

/// A new file in place of the old one.
fn rewrite(path: &Path, known: &Known) -> io::Result<File> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let new = path.with_extension("new");
    let mut text = format!("{HEAD}\n");
    for ((place, holder), cursor) in known {
        text.push_str(&line(&Record {
            place: *place,
            holder: *holder,
            cursor: Some(*cursor),
        }));
    }
    fs::write(&new, text)?;
    fs::rename(&new, path)?;
    OpenOptions::new().append(true).open(path)
}

fn line(record: &Record) -> String {
    let (place, holder) = (record.place.number(), record.holder.number());
    let cursor = record
        .cursor
        .map_or_else(|| "-".to_owned(), |cursor| cursor.to_string());
    let text = format!("{place:032x} {holder:032x} {cursor}");
    let sum = sum(&text);
    format!("{text} {sum:016x}\n")
}

fn parse(line: &str) -> Option<Record> {
    let (text, found) = line.rsplit_once(' ')?;
    if u64::from_str_radix(found, 16).ok()? != sum(text) {
        return None;
    }
    let mut fields = text.split(' ');
    let mut number = || u128::from_str_radix(fields.next()?, 16).ok();
    let (place, holder) = (number()?, number()?);
    let cursor = match fields.next()? {
        "-" => None,
        cursor => Some(cursor.parse().ok()?),
    };
    Some(Record {
        place: Place::of_number(place),
        holder: Holder::of_number(holder),
        cursor,
    })
}

/// FNV-1a, 64 bits: against a disk that forgot, not against anybody.
fn sum(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Epoch, Lsn};

    fn record(place: u128, lsn: Option<u64>) -> Record {
        Record {
            place: Place::of_number(place),
            holder: Holder::of_number(7),
            cursor: lsn.map(|lsn| Cursor {
                epoch: Epoch(1),
                commit_lsn: Lsn::new(lsn),
                order: 3,
            }),
        }
    }

    fn store(path: &Path) -> Store {
        Store {
            path: path.to_owned(),
            known: Known::new(),
            file: rewrite(path, &Known::new()).unwrap(),
            lines: 0,
        }
    }

    #[test]
    fn what_was_written_is_read_back_even_if_the_end_is_torn() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deeper").join(NAME);
        assert!(!read(&path).1, "a file that is not there says nothing");
        let mut store = store(&path);
        store
            .append(&[
                record(1, Some(10)),
                record(2, Some(20)),
                record(1, Some(30)),
            ])
            .unwrap();
        store.append(&[record(2, None)]).unwrap();
        store.file.write_all(b"00000000000000").unwrap();
        let (known, is_whole) = read(&path);
        assert!(is_whole);
        assert_eq!(known.len(), 1);
        let cursor = known.values().next().unwrap();
        assert_eq!(cursor.commit_lsn, Lsn::new(30));
    }

    #[test]
    fn what_makes_no_sense_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(NAME);
        let mut store = store(&path);
        store
            .append(&[record(1, Some(10)), record(2, Some(20))])
            .unwrap();
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen("0000000a", "0000000b", 1)).unwrap();
        let (known, is_whole) = read(&path);
        assert!(!is_whole);
        assert_eq!(known.len(), 1);
        fs::write(&path, "something else\n").unwrap();
        assert!(!read(&path).1);
        fs::write(&path, "").unwrap();
        assert!(!read(&path).1);
    }

    #[test]
    fn the_file_does_not_grow_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(NAME);
        let mut store = store(&path);
        let batch: Vec<Record> = (0..1000).map(|lsn| record(1, Some(lsn))).collect();
        for _ in 0..30 {
            store.append(&batch).unwrap();
        }
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= LINES_MIN + 1000, "{lines}");
        let (known, is_whole) = read(&path);
        assert!(is_whole);
        assert_eq!(known.values().next().unwrap().commit_lsn, Lsn::new(999));
    }
}
