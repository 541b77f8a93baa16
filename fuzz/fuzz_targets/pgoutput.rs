//! Any bytes give a message or an error, never a panic, and at most eight times their size plus a constant in memory.

#![no_main]

use std::alloc::System;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Bytes that a message may take whatever its size.
const CONSTANT: usize = 256;

fuzz_target!(|data: &[u8]| {
    for in_stream in [false, true] {
        let bytes = Bytes::copy_from_slice(data);
        let region = Region::new(ALLOCATOR);
        let message = walcast::replication::pgoutput::decode(bytes, in_stream);
        let allocated = region.change().bytes_allocated;
        assert!(
            allocated <= 8 * data.len() + CONSTANT,
            "{allocated} bytes for {}: {message:?}",
            data.len()
        );
    }
});
