//! `--on-change`: a command that runs after a change.

use std::time::Duration;

use tokio::{process::Command, sync::watch, time::sleep};
use tracing::{info, warn};

use super::process::{self, Limits};

/// Command that runs after a file has changed.
#[derive(Clone, Debug)]
pub(super) struct OnChange {
    command: String,
    limits: Limits,
}

impl OnChange {
    pub(super) fn new(command: String) -> Self {
        Self {
            command,
            limits: LIMITS,
        }
    }

    /// Runs the command after changes, until all senders are dropped and the last change has been handled.
    ///
    /// Changes during a run lead to one more run. After a failure, the command runs again, because the program that
    /// uses the file may not have read the new file yet.
    pub(super) async fn follow(self, mut changes: watch::Receiver<u64>) {
        let mut failures = 0;
        loop {
            let changed = match failures {
                0 => changes.changed().await,
                _ => tokio::select! {
                    changed = changes.changed() => changed,
                    () = sleep(backoff(failures)) => Ok(()),
                },
            };
            if changed.is_err() {
                return;
            }
            failures = match self.run().await {
                true => 0,
                false => failures + 1,
            };
        }
    }

    /// Runs the command once, and returns whether it succeeded.
    pub(super) async fn run(&self) -> bool {
        let mut command = Command::new(SHELL[0]);
        command.arg(SHELL[1]).arg(&self.command);
        let hint = "the server may not have read the new file yet";
        match process::run(&mut command, b"", self.limits).await {
            Ok(finished) if finished.status.success() => {
                info!("`--on-change` has run");
                true
            }
            Ok(finished) => {
                warn!(
                    status = %finished.status,
                    stdout = finished.stdout.line(),
                    stderr = finished.stderr.line(),
                    "`--on-change` failed; {hint}"
                );
                false
            }
            Err(error) => {
                warn!("`--on-change` failed: {error}; {hint}");
                false
            }
        }
    }
}

/// Pause after this number of failures in a row.
fn backoff(failures: u32) -> Duration {
    FIRST_PAUSE
        .saturating_mul(1 << (failures - 1).min(16))
        .min(MAX_PAUSE)
}

#[cfg(unix)]
const SHELL: [&str; 2] = ["sh", "-c"];
#[cfg(not(unix))]
const SHELL: [&str; 2] = ["cmd", "/C"];

const LIMITS: Limits = Limits {
    time: Duration::from_secs(60),
    output: 4096,
};
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const MAX_PAUSE: Duration = Duration::from_secs(5 * 60);

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use integration_tests::within;

    use super::*;

    fn on_change(script: String) -> OnChange {
        let mut on_change = OnChange::new(script);
        on_change.limits.time = Duration::from_secs(2);
        on_change
    }

    async fn has_lines(file: &Path, lines: usize) {
        within(async {
            while fs::read_to_string(file).unwrap_or_default().lines().count() < lines {
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }

    #[tokio::test]
    async fn two_runs_never_overlap_and_changes_in_between_lead_to_one_run() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        // `mkdir` fails if another run is active. Each run continues until the test creates the file `go`.
        let script = format!(
            "mkdir {path}/lock || echo overlap >> {path}/runs; echo run >> {path}/runs; \
             while ! rm {path}/go 2>/dev/null; do sleep 0.01; done; rmdir {path}/lock"
        );
        let (sender, changes) = watch::channel(0);
        let mut command = OnChange::new(script);
        command.limits.time = Duration::from_secs(60);
        let running = tokio::spawn(command.follow(changes));
        let runs = folder.path().join("runs");
        sender.send_modify(|changes| *changes += 1);
        has_lines(&runs, 1).await;
        for _ in 0..10 {
            sender.send_modify(|changes| *changes += 1);
        }
        fs::write(folder.path().join("go"), "").unwrap();
        has_lines(&runs, 2).await;
        fs::write(folder.path().join("go"), "").unwrap();
        drop(sender);
        within(running).await.unwrap();
        assert_eq!(fs::read_to_string(runs).unwrap(), "run\nrun\n");
    }

    #[tokio::test]
    async fn a_command_that_fails_or_hangs_is_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let runs = folder.path().join("runs");
        let script = format!(
            "echo run >> '{0}'; case $(wc -l < '{0}') in 1) exit 7;; 2) sleep 1000;; esac",
            runs.display()
        );
        let (sender, changes) = watch::channel(0);
        let running = tokio::spawn(on_change(script).follow(changes));
        sender.send_modify(|changes| *changes += 1);
        has_lines(&runs, 3).await;
        drop(sender);
        within(running).await.unwrap();
        assert_eq!(fs::read_to_string(runs).unwrap().lines().count(), 3);
    }

    #[test]
    fn the_pause_after_failures_doubles_up_to_five_minutes() {
        let pauses = [1, 2, 3, 8, 9, 1000].map(|failures| backoff(failures).as_secs());
        assert_eq!(pauses, [2, 4, 8, 256, 300, 300]);
    }
}
