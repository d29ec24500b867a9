//! Fuzz target for the rules of the set. For any sequence of outcomes, restarts and pauses, the set agrees with the
//! independent model.

#![no_main]

use callback_source::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| fuzzing::play(bytes));
