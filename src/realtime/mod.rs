//! The Phoenix protocol: frames, sockets, channels (protocol.md §2 to §4).
//!
//! A socket takes frames and notices and gives frames and requests. It knows no network, clock or database.

mod notice;
pub mod payload;
mod render;

pub use notice::{Notice, ResyncReason};
