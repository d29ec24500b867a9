//! Second implementation of the rules of [`AllowSet`](super::AllowSet), and schedules that compare both
//! implementations.
//!
//! [`Model`](rules::Model) is written from the rules and shares no code with the set. It has no index, reports no
//! changes, and derives every verdict from the last outcomes. The model is slow, and meant to be obviously right.
//! Random schedules come from proptest ([`strategies`]) and from the fuzzer ([`bytes`]).

mod bytes;
mod checks;
mod fixtures;
mod rules;
mod schedule;
#[cfg(test)]
mod strategies;
mod trial;
mod verdicts;

#[cfg(test)]
mod tests;

#[cfg(fuzzing)]
pub(crate) use bytes::play;
