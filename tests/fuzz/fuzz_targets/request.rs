//! Path, headers and body of a request, of both eras.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    minimcp::gateway::fuzzing::request(data);
});
