//! One target, named by `FUZZ_TARGET`, under libFuzzer.
#![no_main]

use std::sync::LazyLock;

#[path = "../targets/mod.rs"]
mod targets;

static TARGET: LazyLock<targets::Target> = LazyLock::new(|| {
    let wanted = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET names a target");
    targets::TARGETS.iter().find(|(name, _)| *name == wanted).expect("a target of tests/fuzz/targets").1
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| TARGET(input));
