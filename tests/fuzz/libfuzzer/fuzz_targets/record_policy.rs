//! Entry point of libFuzzer for `record_policy`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kanpachi_fuzz::run("record_policy", data));
