//! Entry point of libFuzzer for `reassembly`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kanpachi_fuzz::run("reassembly", data));
