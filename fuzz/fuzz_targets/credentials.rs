#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sidle::fuzzing::run("credentials", data));
