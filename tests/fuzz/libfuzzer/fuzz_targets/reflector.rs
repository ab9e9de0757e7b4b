//! Entry point of libFuzzer for `reflector`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kanpachi_fuzz::run("reflector", data));
