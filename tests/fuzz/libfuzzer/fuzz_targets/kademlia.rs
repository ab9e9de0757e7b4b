//! Entry point of libFuzzer for `kademlia`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kanpachi_fuzz::run("kademlia", data));
