//! Entry point of libFuzzer for `record_open`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kanpachi_fuzz::run("record_open", data));
