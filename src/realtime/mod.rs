//! The Phoenix protocol: frames, sockets, channels (protocol.md §2 to §4).
//!
//! A socket takes frames and notices and gives frames and requests. It knows no network, clock or database.

mod channel;
mod credentials;
#[cfg(any(test, feature = "testing"))]
mod exercise;
pub mod frame;
mod input;
pub mod join;
mod notice;
mod output;
pub mod payload;
mod refusal;
mod render;
mod socket;
mod wire;

#[cfg(test)]
mod tests;

#[cfg(any(test, feature = "testing"))]
pub use exercise::exercise;
pub use frame::Version;
pub use input::{Input, Now};
pub use notice::{Notice, ResyncReason};
pub use output::{Frame, Output, Tally};
pub use socket::{Limits, Socket};
