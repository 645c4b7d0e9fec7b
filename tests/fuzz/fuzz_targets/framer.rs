//! The lines of a stdio server.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    minimcp::upstream::fuzzing::lines(data);
});
