//! State of all targets, for `/status.json` and `/readyz`.

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

/// State of all targets.
#[derive(Clone, Debug, Default)]
pub(crate) struct FollowStatus(Arc<Mutex<Vec<TargetStatus>>>);

/// State of a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct TargetStatus {
    target: String,
    state: TargetState,
    /// Number of addresses and networks at the target after its last successful update.
    members: usize,
    changes: u64,
    last_error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum TargetState {
    /// No update of the target has succeeded or failed yet.
    Waiting,
    InSync,
    /// No address or network is admitted, and the target was left unchanged.
    Kept,
    Failed,
}

impl TargetStatus {
    /// Returns a sentence about the problem; `None` if the target is in sync or waits for its first update.
    pub(crate) fn problem(&self) -> Option<String> {
        let target = &self.target;
        match self.state {
            TargetState::Waiting | TargetState::InSync => None,
            TargetState::Kept => Some(format!(
                "{target} was left unchanged, because no address is admitted any more."
            )),
            TargetState::Failed => {
                let cause = self.last_error.as_deref().unwrap_or("it has failed");
                Some(format!("{target} is not up to date: {cause}."))
            }
        }
    }
}

impl FollowStatus {
    pub(super) fn new<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let targets = names.map(|name| TargetStatus {
            target: name.to_owned(),
            state: TargetState::Waiting,
            members: 0,
            changes: 0,
            last_error: None,
        });
        Self(Arc::new(Mutex::new(targets.collect())))
    }

    /// Returns whether every target is in sync.
    pub(crate) fn is_in_sync(&self) -> bool {
        let mut targets = self.all().into_iter();
        targets.all(|target| target.state == TargetState::InSync)
    }

    pub(crate) fn all(&self) -> Vec<TargetStatus> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn synced(&self, at: usize, members: usize, is_change: bool) {
        self.update(at, |target| {
            target.state = TargetState::InSync;
            target.members = members;
            target.changes += u64::from(is_change);
            target.last_error = None;
        });
    }

    pub(super) fn kept(&self, at: usize) {
        self.update(at, |target| target.state = TargetState::Kept);
    }

    pub(super) fn failed(&self, at: usize, error: &str) {
        self.update(at, |target| {
            target.state = TargetState::Failed;
            target.last_error = Some(error.to_owned());
        });
    }

    fn update(&self, at: usize, change: impl FnOnce(&mut TargetStatus)) {
        let mut targets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(target) = targets.get_mut(at) {
            change(target);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_is_not_up_to_date_is_a_problem_with_its_cause() {
        let status = FollowStatus::new(["file:plain:a", "file:plain:b"].into_iter());
        let problems = |status: &FollowStatus| {
            let all = status.all();
            all.iter()
                .filter_map(TargetStatus::problem)
                .collect::<Vec<_>>()
        };
        assert!(problems(&status).is_empty() && !status.is_in_sync());
        status.synced(0, 1, true);
        status.failed(1, "the disk is full");
        assert_eq!(
            problems(&status),
            ["file:plain:b is not up to date: the disk is full."]
        );
        status.synced(1, 1, true);
        assert!(problems(&status).is_empty() && status.is_in_sync());
        status.kept(1);
        assert_eq!(problems(&status).len(), 1);
    }
}
