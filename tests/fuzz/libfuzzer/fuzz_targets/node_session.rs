//! Entry point of libFuzzer for `node_session`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kanpachi_fuzz::run("node_session", data));
