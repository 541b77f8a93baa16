//! The recent changes as they were encoded, addressed by number, and what each connection has still to read of them.
//!
//! The pipeline appends; connections read at the pace of their sockets. A slow connection costs its index, never the
//! payloads: those are bounded in memory, then in a file, and what leaves the file is gone (the reader is told). Of what was
//! broadcast from the database, the order of the newest rows besides.

mod kept;
mod order;
mod outbox;
mod segment;
mod store;

pub use kept::{Allowance, Keeper, Kept, Share};
pub use order::{Order, ParseRowIdError, RowId};
pub use outbox::{KeptRun, Outbox, Posting, Run};
pub(crate) use segment::{Segment, Tail};
pub use store::{Gone, Limits, Log};
