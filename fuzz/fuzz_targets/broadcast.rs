//! Any broadcast is encoded into frames that can be decoded, or into none.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| walcast::realtime::exercise_broadcast(data));
