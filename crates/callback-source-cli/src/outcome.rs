//! Outcome of a command.
//!
//! A script must not mistake a DNS failure for a refusal. There are therefore three outcomes, with the exit codes
//! 0, 1 and 2.

/// Outcome of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Yes: everything is admitted, found or valid.
    Yes,
    /// No: something is refused or does not match.
    No,
    /// Undecided. The reason is printed to stderr.
    Incomplete,
}
