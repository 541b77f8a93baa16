//! Any frames leave a socket standing, and what it sends can be decoded.

#![no_main]

use std::time::Instant;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| walcast::realtime::exercise(Instant::now(), data));
