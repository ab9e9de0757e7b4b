//! Entry point of libFuzzer for `tunnel_datagram`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kanpachi_fuzz::run("tunnel_datagram", data));
