//! Entry point of libFuzzer for `mirror`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kanpachi_fuzz::run("mirror", data));
