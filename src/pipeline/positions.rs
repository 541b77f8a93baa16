//! The positions of those who may come back, on disk (*io*), so that they outlive the process.
//!
//! One file of lines, only ever appended to, and written anew when most of it is outdated. It is read when the stream begins,
//! not before: a process that stands by would read what its predecessor has not written yet. A lock says whose it is.
//! What a crash leaves of the last line is ignored. A crash of the machine may leave less, which shows by the boot that the
//! file names. A file that is not there, or may not be whole, means that nobody can be told from a stranger: for a day
//! whoever is not known is told to start over. A store for several processes would take this module's place.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::sessions::{Batch, FORGET_AFTER, Holder, Place, Record};
use crate::change::Cursor;
use crate::clock;

/// The first line, with the boot of the machine; another one is of another format.
const HEAD: &str = "walcast sessions 3";
/// Begins a line with the second, by the clock of Unix, until which unknown sessions may have been.
const UNTIL: &str = "until ";
/// The last line of who has left in peace: all of it is on the disk.
const CLOSED: &str = "closed";
/// Where Linux names the boot.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";
/// The names of the file, and of what is locked.
const NAME: &str = "sessions";
const LOCK: &str = "sessions.lock";
/// Is there when somebody had sessions that are not in the file.
const DOUBT: &str = "sessions.doubt";
/// Lines beyond which a file is written anew if most of them are outdated.
const LINES_MIN: usize = 10_000;
/// Batches that wait to be written; beyond, they gather.
const BATCHES_MAX: usize = 16;
/// How long a predecessor that has lost the slot may take to write what is left, and between two looks whether it has.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// How long the stream waits for the disk.
const DISK_PATIENCE: Duration = Duration::from_secs(10);

/// What is known of a session.
type Known = HashMap<(Place, Holder), Cursor>;

/// What the store is asked.
enum Request {
    /// To be ours.
    Take(oneshot::Sender<Taken>),
    Append(Batch),
    /// To be anybody's.
    Release(oneshot::Sender<()>),
}

/// What there was when the store became ours.
#[derive(Debug)]
pub(super) struct Taken {
    /// Positions that were stored by others since it was ours last.
    pub(super) records: Vec<Record>,
    /// Nobody else had it since it was ours last.
    pub(super) was_ours: bool,
    /// So long unknown sessions may have been; `None`: what is not here never was.
    pub(super) doubt: Option<Duration>,
    /// It can be written.
    pub(super) stores: bool,
}

impl Taken {
    /// It is not.
    const NOTHING: Self = Self {
        records: Vec::new(),
        was_ours: false,
        doubt: Some(FORGET_AFTER),
        stores: false,
    };
}

/// The store, from outside.
pub(super) struct Positions {
    requests: mpsc::Sender<Request>,
    written: watch::Receiver<u64>,
    is_ours: bool,
}

impl Positions {
    /// A store in this directory, which is nobody's yet.
    pub(super) fn start(directory: &Path, tasks: &TaskTracker) -> Self {
        let store = Store::in_directory(directory);
        let (requests, requests_in) = mpsc::channel(BATCHES_MAX);
        let (written_out, written) = watch::channel(0);
        tasks.spawn(serve(store, requests_in, written_out));
        Self {
            requests,
            written,
            is_ours: false,
        }
    }

    /// Makes it ours, as the slot is.
    ///
    /// Not cancel safe: what was read is lost.
    pub(super) async fn take(&mut self) -> Taken {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.requests.send(Request::Take(reply)).await.ok()?;
            answer.await.ok()
        };
        let taken = timeout(DISK_PATIENCE, asked).await.ok().flatten();
        let taken = taken.unwrap_or(Taken::NOTHING);
        self.is_ours = taken.stores;
        taken
    }

    /// Lets go of it: the slot may be another process's. What was handed over before is written.
    ///
    /// Cancel safe.
    pub(super) async fn release(&mut self) {
        if std::mem::take(&mut self.is_ours) {
            let (reply, answer) = oneshot::channel();
            let asked = async {
                self.requests.send(Request::Release(reply)).await.ok()?;
                answer.await.ok()
            };
            let _timely = timeout(DISK_PATIENCE, asked).await;
        }
    }

    /// Room for a batch, if it is ours and there is.
    pub(super) fn room(&self) -> Option<impl FnOnce(Batch) + '_> {
        let room = self.requests.try_reserve().ok().filter(|_| self.is_ours)?;
        Some(move |batch| {
            room.send(Request::Append(batch));
        })
    }

    /// The last batch.
    ///
    /// Cancel safe: then it is not written.
    pub(super) async fn finish(self, batch: Batch) {
        if self.is_ours {
            let last = self.requests.send(Request::Append(batch));
            let _timely = timeout(DISK_PATIENCE, last).await;
        }
    }

    /// The number of the last batch that was written, once there is a new one. Cancel safe.
    pub(super) async fn wrote(&mut self) -> u64 {
        if self.written.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        *self.written.borrow_and_update()
    }
}

struct Store {
    path: PathBuf,
    lock_path: PathBuf,
    doubt_path: PathBuf,
    /// By this the lock says who had it last.
    token: u64,
    known: Known,
    /// Until then unknown sessions may have been; seconds, by the clock of Unix.
    until: i64,
    /// While it is ours.
    open: Option<Open>,
    /// Of the file, without the first.
    lines: usize,
}

struct Open {
    file: File,
    _lock: File,
}

/// Ends with the conductor, so that what it says last is written as well.
async fn serve(
    mut store: Store,
    mut requests: mpsc::Receiver<Request>,
    written: watch::Sender<u64>,
) {
    while let Some(request) = requests.recv().await {
        let written = written.clone();
        let done = tokio::task::spawn_blocking(move || {
            store.handle(request, &written);
            store
        });
        let Ok(returned) = done.await else {
            return;
        };
        store = returned;
    }
    let closed = tokio::task::spawn_blocking(move || store.close());
    let _panicked = closed.await;
}

impl Store {
    fn in_directory(directory: &Path) -> Self {
        Self {
            path: directory.join(NAME),
            lock_path: directory.join(LOCK),
            doubt_path: directory.join(DOUBT),
            token: rand::random(),
            known: Known::new(),
            until: 0,
            open: None,
            lines: 0,
        }
    }

    fn handle(&mut self, request: Request, written: &watch::Sender<u64>) {
        match request {
            Request::Take(reply) => {
                let taken = self.take().unwrap_or_else(|error| {
                    self.complain(&error);
                    self.doubt();
                    Taken::NOTHING
                });
                // Whoever asked may have lost patience, and goes on without.
                if reply.send(taken).is_err() {
                    self.close();
                    self.doubt();
                }
            }
            Request::Append(batch) => {
                if let Err(error) = self.append(&batch) {
                    self.complain(&error);
                    // Nobody should take what is left for all there is.
                    self.doubt();
                    if let Err(error) = fs::remove_file(&self.path) {
                        self.complain(&error);
                    }
                    self.open = None;
                }
                // Nobody waits for what cannot be.
                written.send_replace(batch.number);
            }
            Request::Release(reply) => {
                self.close();
                let _gone = reply.send(());
            }
        }
    }

    /// Those who come to us will not be in it.
    fn doubt(&self) {
        if let Err(error) = File::create(&self.doubt_path) {
            self.complain(&error);
        }
    }

    fn complain(&self, error: &io::Error) {
        tracing::error!(%error, path = %self.path.display(), "cannot keep the positions of sessions");
    }

    /// Waits for who has it, and reads what is there unless nobody has had it since.
    fn take(&mut self) -> io::Result<Taken> {
        if self.open.is_some() {
            return Ok(Taken {
                was_ours: true,
                doubt: None,
                stores: true,
                ..Taken::NOTHING
            });
        }
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory)?;
        }
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true);
        let mut lock = options.open(&self.lock_path)?;
        let looks = LOCK_PATIENCE.as_millis() / LOCK_PAUSE.as_millis();
        let mut locked = lock.try_lock();
        for _ in 0..looks {
            if locked.is_ok() {
                break;
            }
            std::thread::sleep(LOCK_PAUSE);
            locked = lock.try_lock();
        }
        locked.map_err(io::Error::from)?;
        let token = format!("{:016x}", self.token);
        let was_ours = fs::read_to_string(&self.lock_path)? == token && self.path.exists();
        if !was_ours {
            lock.set_len(0)?;
            lock.write_all(token.as_bytes())?;
        }
        let is_first = !self.path.exists() && !self.doubt_path.exists();
        let Read {
            known,
            until,
            is_whole,
        } = read(&self.path);
        let is_whole = is_whole && !self.doubt_path.exists();
        let now = clock::unix_seconds();
        self.until = until;
        if !is_whole {
            // Where there never was a file, what was before is not known to us, and of no concern to those after us.
            self.until = if is_first { 0 } else { forgotten_at(now) };
            tracing::warn!(path = %self.path.display(), "the positions of earlier sessions are not (all) known; whoever comes back unknown is told to start over");
        }
        let file = rewrite(&self.path, &known, self.until)?;
        if self.doubt_path.exists() {
            fs::remove_file(&self.doubt_path)?;
        }
        let record = |((place, holder), cursor): (&(Place, Holder), &Cursor)| Record {
            place: *place,
            holder: *holder,
            cursor: Some(*cursor),
        };
        let records = known.iter().filter(|_| !was_ours).map(record).collect();
        (self.lines, self.known) = (known.len(), known);
        self.open = Some(Open { file, _lock: lock });
        Ok(Taken {
            records,
            was_ours,
            doubt: u64::try_from(self.until.saturating_sub(now))
                .ok()
                .filter(|seconds| *seconds > 0)
                .map(Duration::from_secs)
                .or(is_first.then_some(FORGET_AFTER)),
            stores: true,
        })
    }

    fn append(&mut self, batch: &Batch) -> io::Result<()> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        let mut text = String::new();
        if batch.forgot {
            self.until = forgotten_at(clock::unix_seconds());
            text = until_line(self.until);
        }
        for record in &batch.records {
            let key = (record.place, record.holder);
            match record.cursor {
                Some(cursor) => self.known.insert(key, cursor),
                None => self.known.remove(&key),
            };
            text.push_str(&line(record));
        }
        self.lines = self.lines.saturating_add(batch.records.len());
        if self.lines > LINES_MIN && self.lines / 4 > self.known.len() {
            open.file = rewrite(&self.path, &self.known, self.until)?;
            self.lines = self.known.len();
            return Ok(());
        }
        open.file.write_all(text.as_bytes())
    }

    /// All is on the disk, and anybody may have it.
    fn close(&mut self) {
        if let Some(mut open) = self.open.take() {
            let closed = (open.file.write_all(format!("{CLOSED}\n").as_bytes()))
                .and_then(|()| open.file.sync_all());
            if let Err(error) = closed {
                self.complain(&error);
            }
        }
    }
}

/// Who is forgotten at this second may come back until this one.
fn forgotten_at(now: i64) -> i64 {
    now.saturating_add(i64::try_from(FORGET_AFTER.as_secs()).unwrap_or(i64::MAX))
}

fn until_line(until: i64) -> String {
    format!("{UNTIL}{until}\n")
}

/// The boot of the machine; where that cannot be known it is always the same.
fn boot() -> String {
    let boot = fs::read_to_string(BOOT).unwrap_or_default();
    boot.trim().to_owned()
}

/// What the file says.
#[derive(Debug, Default)]
struct Read {
    known: Known,
    /// See [`Store::until`].
    until: i64,
    /// It is all there is to say.
    is_whole: bool,
}

fn read(path: &Path) -> Read {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            tracing::debug!(%error, path = %path.display(), "no positions of sessions");
            return Read::default();
        }
    };
    let mut known = Known::new();
    // A line that a crash has cut off has no end.
    let whole = text.rfind('\n').map_or("", |end| text.split_at(end).0);
    let mut lines = whole.split('\n').peekable();
    let head = lines.next();
    let mut is_whole = head.is_some_and(|head| head.starts_with(HEAD));
    let is_of_this_boot = head == Some(&*format!("{HEAD} {}", boot()));
    let mut is_closed = false;
    let mut until = 0_i64;
    while let Some(line) = lines.next() {
        if line == CLOSED && lines.peek().is_none() {
            is_closed = true;
            break;
        }
        if let Some(text) = line.strip_prefix(UNTIL) {
            match text.parse::<i64>() {
                Ok(second) => until = until.max(second),
                Err(_) => is_whole = false,
            }
            continue;
        }
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
    Read {
        known,
        until,
        is_whole: is_whole && (is_of_this_boot || is_closed),
    }
}

/// A new file in place of the old one, for good: it is not closed, which the old one may have been.
fn rewrite(path: &Path, known: &Known, until: i64) -> io::Result<File> {
    let new = path.with_extension("new");
    let mut text = format!("{HEAD} {}\n", boot());
    text.push_str(&until_line(until));
    for ((place, holder), cursor) in known {
        text.push_str(&line(&Record {
            place: *place,
            holder: *holder,
            cursor: Some(*cursor),
        }));
    }
    let mut file = File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    if let Some(directory) = path.parent() {
        File::open(directory)?.sync_all()?;
    }
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

    fn batch(records: &[Record]) -> Batch {
        Batch {
            records: records.to_vec(),
            ..Batch::default()
        }
    }

    fn store(path: &Path) -> Store {
        Store {
            path: path.to_owned(),
            ..Store::in_directory(path.parent().unwrap())
        }
    }

    fn taken(path: &Path) -> Store {
        let mut store = store(path);
        assert!(store.take().unwrap().stores);
        store
    }

    #[test]
    fn what_was_written_is_read_back_even_if_the_end_is_torn() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deeper").join(NAME);
        assert!(
            !read(&path).is_whole,
            "a file that is not there says nothing"
        );
        let mut store = taken(&path);
        store
            .append(&batch(&[
                record(1, Some(10)),
                record(2, Some(20)),
                record(1, Some(30)),
            ]))
            .unwrap();
        store.append(&batch(&[record(2, None)])).unwrap();
        let open = store.open.as_mut().unwrap();
        open.file.write_all(b"00000000000000").unwrap();
        let Read {
            known, is_whole, ..
        } = read(&path);
        assert!(is_whole);
        assert_eq!(known.len(), 1);
        let cursor = known.values().next().unwrap();
        assert_eq!(cursor.commit_lsn, Lsn::new(30));
    }

    #[test]
    fn whoever_takes_it_waits_for_who_has_it_and_reads_what_was_written_last() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(NAME);
        let mut first = taken(&path);
        let mut second = store(&path);
        assert!(second.take().is_err(), "the first still has it");
        first.append(&batch(&[record(1, Some(10))])).unwrap();
        first.close();
        assert!(first.take().unwrap().was_ours);
        first.append(&batch(&[record(2, Some(20))])).unwrap();
        // Killed.
        drop(first.open.take());
        let taken = second.take().unwrap();
        assert_eq!((taken.was_ours, taken.doubt.is_some()), (false, false));
        assert_eq!(taken.records.len(), 2);
        drop(second.open.take());
        let taken = first.take().unwrap();
        assert_eq!((taken.was_ours, taken.records.len()), (false, 2));
    }

    #[test]
    fn what_the_machine_may_have_lost_is_not_taken_for_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(NAME);
        for closes in [false, true] {
            let mut store = taken(&path);
            store.append(&batch(&[record(1, Some(10))])).unwrap();
            if closes {
                store.close();
            }
            drop(store);
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, text.replacen(&boot(), "another", 1)).unwrap();
            assert_eq!(read(&path).is_whole, closes);
        }
    }

    #[test]
    fn what_makes_no_sense_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(NAME);
        let mut store = taken(&path);
        store
            .append(&batch(&[record(1, Some(10)), record(2, Some(20))]))
            .unwrap();
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen("0000000a", "0000000b", 1)).unwrap();
        let Read {
            known, is_whole, ..
        } = read(&path);
        assert!(!is_whole);
        assert_eq!(known.len(), 1);
        fs::write(&path, "something else\n").unwrap();
        assert!(!read(&path).is_whole);
        fs::write(&path, "").unwrap();
        assert!(!read(&path).is_whole);
    }

    #[test]
    fn the_file_does_not_grow_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(NAME);
        let mut store = taken(&path);
        let many: Vec<Record> = (0..1000).map(|lsn| record(1, Some(lsn))).collect();
        for _ in 0..30 {
            store.append(&batch(&many)).unwrap();
        }
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= LINES_MIN + 1000, "{lines}");
        let Read {
            known, is_whole, ..
        } = read(&path);
        assert!(is_whole);
        assert_eq!(known.values().next().unwrap().commit_lsn, Lsn::new(999));
    }
}
