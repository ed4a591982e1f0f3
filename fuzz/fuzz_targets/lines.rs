#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trochus_fuzz::check("lines", data));
