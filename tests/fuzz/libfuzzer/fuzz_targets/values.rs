//! Entry point of libFuzzer for `values`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kanpachi_fuzz::run("values", data));
