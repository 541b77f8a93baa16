//! Any lines of text, each a frame to a socket of either version, give frames that are JSON, never a panic.

#![no_main]

use std::time::Instant;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|lines: &str| {
    // What cannot stand in a text separates the frames.
    let frames: Vec<u8> = lines
        .bytes()
        .map(|byte| if byte == b'\n' { 0xff } else { byte })
        .collect();
    walcast::realtime::exercise(Instant::now(), &frames);
});
