//! JSON-RPC messages, and the objects in them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    minimcp::upstream::fuzzing::envelope(data);
    minimcp::upstream::fuzzing::object(data);
});
