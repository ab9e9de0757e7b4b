//! Entry point of libFuzzer for `router`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kanpachi_fuzz::run("router", data));
