//! Entry point of libFuzzer for `relay`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kanpachi_fuzz::run("relay", data));
