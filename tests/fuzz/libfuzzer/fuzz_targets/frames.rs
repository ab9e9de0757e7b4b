//! Entry point of libFuzzer for `frames`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kanpachi_fuzz::run("frames", data));
