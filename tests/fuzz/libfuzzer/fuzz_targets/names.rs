//! Entry point of libFuzzer for `names`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kanpachi_fuzz::run("names", data));
