//! Entry point of libFuzzer for `coordinator_session`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kanpachi_fuzz::run("coordinator_session", data));
