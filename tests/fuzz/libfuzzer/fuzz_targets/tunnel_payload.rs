//! Entry point of libFuzzer for `tunnel_payload`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kanpachi_fuzz::run("tunnel_payload", data));
