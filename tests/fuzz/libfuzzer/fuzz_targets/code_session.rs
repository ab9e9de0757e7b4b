//! Entry point of libFuzzer for `code_session`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kanpachi_fuzz::run("code_session", data));
