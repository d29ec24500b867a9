//! Timing and execution of the refresher's writes of the state file.

use std::{
    future,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;

use crate::list::{clock::now, shared::Shared, state_file::StateFile};

/// Decides when the state file is written. One write runs at a time, on a thread that may block.
#[derive(Debug)]
pub(crate) struct StateWriter {
    file: Arc<StateFile>,
    /// The write in progress, if there is one.
    writing: Option<JoinHandle<()>>,
    /// The time at which the last write began. It is initially the start time, so that a state without changes is not
    /// written at the start.
    written_at: Instant,
    /// The number of address changes that the last write includes.
    written_changes: u64,
}

impl StateWriter {
    pub(crate) fn new(file: Arc<StateFile>) -> Self {
        Self {
            file,
            writing: None,
            written_at: now(),
            written_changes: 0,
        }
    }

    pub(crate) fn file(&self) -> &StateFile {
        &self.file
    }

    /// Starts a write if a write is due, and otherwise returns the time at which the next write is due. Returns `None`
    /// while a write runs: the caller must then wait for [`write_finished`](Self::write_finished).
    pub(crate) fn write_if_due(&mut self, shared: &Shared, now: Instant) -> Option<Instant> {
        if self.writing.is_some() {
            return None;
        }
        // The number of changes is read before the set, so that a change between the two reads is written twice instead
        // of never.
        let changes = shared.address_changes();
        let due_at = match changes == self.written_changes {
            true => self.written_at + BETWEEN_WRITES,
            false => now,
        };
        #[cfg(callback_source_simulation)]
        let due_at = match crate::simulation::planted(crate::simulation::Fault::ChangesSavedLate) {
            true => self.written_at + BETWEEN_WRITES,
            false => due_at,
        };
        if now < due_at {
            return Some(due_at);
        }
        self.written_at = now;
        self.written_changes = changes;
        let file = Arc::clone(&self.file);
        let snapshot = file.snapshot(&shared.published.load());
        self.writing = Some(tokio::task::spawn_blocking(move || file.write(&snapshot)));
        None
    }

    /// Waits until the write in progress has ended, or forever if no write is in progress.
    pub(crate) async fn write_finished(&mut self) {
        match &mut self.writing {
            // The panic hook reports a panic of the write. The next write is another attempt.
            Some(writing) => drop(writing.await),
            None => future::pending().await,
        }
        self.writing = None;
    }

    /// Writes the current state on a thread that may block, and waits for the end of the write.
    pub(crate) async fn write_last(&self, shared: &Shared) {
        let file = Arc::clone(&self.file);
        let snapshot = file.snapshot(&shared.published.load());
        // The panic hook reports a panic of the write.
        let _ = tokio::task::spawn_blocking(move || file.write(&snapshot)).await;
    }

    /// Writes the current state while the runtime shuts down, when no task can wait for the write. Blocks for at most
    /// two seconds, because a disk that hangs must not prevent the process from ending.
    pub(crate) fn write_at_exit(self, shared: &Shared) {
        let file = self.file;
        let snapshot = file.snapshot(&shared.published.load());
        let (written, is_written) = std::sync::mpsc::channel();
        let write = move || {
            file.write(&snapshot);
            let _ = written.send(());
        };
        if std::thread::Builder::new().spawn(write).is_ok() {
            let _ = is_written.recv_timeout(LAST_WRITE);
        }
    }
}

/// Minimum time between two writes if only times have changed. Times change with each answer. Changed addresses are
/// written at once.
const BETWEEN_WRITES: Duration = Duration::from_secs(60);

/// The longest time that a runtime waits for the last write while it shuts down.
const LAST_WRITE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AllowSet, Answer, list::on_demand::OnDemandLimits};

    #[test]
    fn the_state_at_the_end_of_the_runtime_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        let host = "h.test".parse().unwrap();
        let mut set = AllowSet::new(Default::default(), [host], &[], now()).unwrap();
        let (question, _) = set.questions().next().unwrap();
        let answer = Answer::new([[20, 0, 0, 1].into()], Duration::from_secs(60));
        set.apply(&question, Ok(answer), now());
        let shared = Shared::new(set, OnDemandLimits::default(), "exit", now());
        let file = Arc::new(StateFile::kept(path.clone()));
        StateWriter::new(file).write_at_exit(&shared);
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.contains("20.0.0.1"), "{text}");
    }
}
