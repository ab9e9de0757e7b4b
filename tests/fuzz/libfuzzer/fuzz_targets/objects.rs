//! Entry point of libFuzzer for `objects`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kanpachi_fuzz::run("objects", data));
