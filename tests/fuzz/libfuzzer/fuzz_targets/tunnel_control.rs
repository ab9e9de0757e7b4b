//! Entry point of libFuzzer for `tunnel_control`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kanpachi_fuzz::run("tunnel_control", data));
