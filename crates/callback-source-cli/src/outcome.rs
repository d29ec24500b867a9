//! What a command found.

/// What a command found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Everything is as asked for.
    Yes,
    /// Something is not.
    No,
    /// It cannot be said, and stderr says why.
    Incomplete,
}
