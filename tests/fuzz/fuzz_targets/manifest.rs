//! The manifest of a template.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    minimcp::templates::fuzzing::read(data);
});
