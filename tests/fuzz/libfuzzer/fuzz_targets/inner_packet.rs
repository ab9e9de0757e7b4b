//! Entry point of libFuzzer for `inner_packet`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kanpachi_fuzz::run("inner_packet", data));
