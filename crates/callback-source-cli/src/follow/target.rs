//! The trait of all targets.

use std::{collections::BTreeSet, error::Error, fmt, pin::Pin, sync::Arc};

use ipnet::IpNet;

use super::goal::{Goal, Plain};

/// A copy of the admitted addresses outside this process.
pub(crate) trait Target: Send {
    /// Name of the target, as it was given.
    fn name(&self) -> &str;

    /// Makes the target equal to the goal, and returns the difference. Reads the target first, so that changes by other
    /// programs are undone. Writes only if there is a difference, and never with [`Mode::DryRun`].
    ///
    /// While a host is unresolved for a family, addresses of that family from before the start of this process are
    /// kept, for the longest window at most.
    fn sync(&mut self, goal: Arc<Goal>, mode: Mode) -> Syncing<'_>;

    /// Returns whether `--on-change` runs after a change of this target.
    fn runs_command(&self) -> bool {
        false
    }
}

/// Future of a running [`Target::sync`].
pub(crate) type Syncing<'a> =
    Pin<Box<dyn Future<Output = Result<Change, TargetError>> + Send + 'a>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Write,
    /// Computes the changes without writing them.
    DryRun,
}

/// Difference that a write made, or would make.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) added: Vec<Plain>,
    pub(crate) removed: Vec<Plain>,
    /// Number of members after the write.
    pub(crate) members: usize,
    /// `true` if the members did not change, but text other than the times in the header did, for example because the
    /// target was damaged.
    pub(crate) rewritten: bool,
}

impl Change {
    pub(crate) fn between(before: &BTreeSet<IpNet>, after: &BTreeSet<IpNet>) -> Self {
        Self {
            added: after.difference(before).copied().map(Plain).collect(),
            removed: before.difference(after).copied().map(Plain).collect(),
            members: after.len(),
            rewritten: false,
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.added.extend(&other.added);
        self.removed.extend(&other.removed);
        self.members += other.members;
        self.rewritten |= other.rewritten;
    }

    pub(crate) fn is_none(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && !self.rewritten
    }
}

/// Problem of a target, and the next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TargetError {
    pub(crate) problem: String,
    pub(crate) hint: Option<String>,
}

impl TargetError {
    pub(crate) fn new(problem: impl Into<String>) -> Self {
        Self {
            problem: problem.into(),
            hint: None,
        }
    }

    pub(crate) fn with_hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl Error for TargetError {}
