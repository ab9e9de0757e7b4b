//! Entry point of libFuzzer for `messages`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kanpachi_fuzz::run("messages", data));
