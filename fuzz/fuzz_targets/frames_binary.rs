//! Any bytes, cut into frames at `0xff`, to a socket that has joined a channel.

#![no_main]

use std::time::Instant;

use libfuzzer_sys::fuzz_target;

const JOIN_1: &[u8] = br#"{"topic":"realtime:a","event":"phx_join","payload":{"config":{"broadcast":{"ack":true,"self":true}}},"ref":"1","join_ref":"1"}"#;
const JOIN_2: &[u8] =
    br#"["1","1","realtime:a","phx_join",{"config":{"broadcast":{"ack":true,"self":true}}}]"#;

fuzz_target!(|data: &[u8]| {
    // A socket takes the join of its own version and drops the other.
    let frames = [JOIN_1, JOIN_2, data].join(&0xff);
    walcast::realtime::exercise(Instant::now(), &frames);
});
