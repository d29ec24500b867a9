//! Any schedule of outcomes, restarts and time: the set agrees with the independent model of its rules.

#![no_main]

use callback_source::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| fuzzing::play(bytes));
