//! Any body and any query of the broadcast endpoints give messages or an answer that is JSON, never a panic.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| walcast::server::exercise_broadcast(data));
