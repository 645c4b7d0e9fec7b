//! The event stream of an HTTP server.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    minimcp::upstream::fuzzing::events(data);
    minimcp::gateway::fuzzing::events(data);
});
