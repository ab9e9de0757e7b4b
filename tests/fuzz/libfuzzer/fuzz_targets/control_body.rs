//! Entry point of libFuzzer for `control_body`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kanpachi_fuzz::run("control_body", data));
