//! The files of MCP clients and registries.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    minimcp::interchange::fuzzing::read(data);
});
