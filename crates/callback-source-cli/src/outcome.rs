//! Outcome of a command.

/// Outcome of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Yes: everything is admitted, found or valid.
    Yes,
    /// No: something is refused or does not match.
    No,
    /// Undecided; stderr has the reason.
    Incomplete,
}
