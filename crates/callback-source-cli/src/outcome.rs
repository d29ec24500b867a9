//! Outcome of a command.
//!
//! A script must not mistake a DNS failure for a refusal. There are therefore three outcomes, with the exit codes
//! 0, 1 and 2.

/// Outcome of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Yes: everything is admitted, found or valid.
    Yes,
    /// No: something is refused, not found or not valid.
    No,
    /// Undecided. The command prints the reason.
    Incomplete,
}
