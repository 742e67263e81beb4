#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

fuzz_target!(|bytes: &[u8]| finalizer::check_decode(bytes));

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let is_structured = seed % 4 > 0;
    is_structured
        .then(|| finalizer::mutate::json(data, size, max_size, seed))
        .flatten()
        .unwrap_or_else(|| fuzzer_mutate(data, size, max_size))
});
