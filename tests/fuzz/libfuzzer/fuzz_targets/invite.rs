//! Entry point of libFuzzer for `invite`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kanpachi_fuzz::run("invite", data));
