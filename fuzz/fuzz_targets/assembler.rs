//! Any sequence of messages gives events or an error, never a panic. Each message is preceded by two bytes of length.

#![no_main]

use std::sync::Arc;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use walcast::change::{Epoch, Lsn, Relation};
use walcast::replication::assembler::{Assembler, AssemblerOptions, SpoolOptions, Step};

fuzz_target!(|data: &[u8]| {
    let mut spool = SpoolOptions::new(std::env::temp_dir());
    spool.transaction_memory_max = 10_000;
    let mut assembler = Assembler::new(AssemblerOptions {
        epoch: Epoch(1),
        processed: Lsn::ZERO,
        key_resolver: Arc::new(|_: &Relation| Box::default()),
        message_prefixes: vec!["walcast".into()],
        spool,
    });
    let mut rest = data;
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length)).min(after.len());
        let (message, after) = after.split_at(length);
        rest = after;
        if assembler.handle(Bytes::copy_from_slice(message)).is_err() {
            assembler.reset(Epoch(1), Lsn::ZERO);
        }
        loop {
            match assembler.poll() {
                Ok(Step::Idle) => break,
                Ok(_) => {}
                Err(_) => assembler.reset(Epoch(1), Lsn::ZERO),
            }
        }
    }
});
