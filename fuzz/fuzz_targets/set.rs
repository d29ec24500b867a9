//! Rules of the set: for any schedule of outcomes, restarts and time, the set agrees with the independent model.

#![no_main]

use callback_source::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| fuzzing::play(bytes));
