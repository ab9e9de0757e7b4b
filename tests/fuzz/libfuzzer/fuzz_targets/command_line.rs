//! Entry point of libFuzzer for `command_line`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kanpachi_fuzz::run("command_line", data));
