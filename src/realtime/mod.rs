//! The Phoenix protocol: frames, sockets, channels (protocol.md §2 to §8).
//!
//! A socket takes frames and notices and gives frames and requests. It knows no network, clock or database.

mod broadcast;
mod channel;
mod code;
mod credentials;
#[cfg(any(test, feature = "testing"))]
mod exercise;
pub mod frame;
mod input;
pub mod join;
mod notice;
mod output;
pub mod payload;
mod push;
mod rate;
mod refusal;
mod render;
mod request;
mod socket;
mod wire;

#[cfg(test)]
mod tests;

pub use broadcast::{Broadcast, Content, Storing};
pub use code::{AckError, ErrorCode, markdown as errors_markdown};
#[cfg(any(test, feature = "testing"))]
pub use exercise::{exercise, exercise_broadcast};
pub use frame::Version;
pub use input::{Input, Now};
pub use notice::{
    Notice, PositionRefused, PresenceDiff, PresenceState, ResyncReason, SnapshotLimit,
    SnapshotRefusal,
};
pub use output::{Deliveries, Entry, Frame, Output, Receives, RoomRequest, Tally};
pub use rate::{Counted, PerSecond, Rate, Subject, Subjects};
pub use request::{Answer, Ask, AskError, Extension, Stored, StoredData};
pub use socket::{Limits, Opening, Socket};
