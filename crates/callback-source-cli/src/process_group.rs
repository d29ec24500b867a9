//! Process groups. A signal to the group of a command also reaches the processes that the command has started. On
//! systems other than Unix, these functions do nothing.

use std::process::Command;

/// Makes a command the first process of a group of its own. Ctrl-C in the terminal then does not end the command.
pub(crate) fn separate(command: &mut Command) {
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(command, 0);
    #[cfg(not(unix))]
    let _ = command;
}

/// Kills every process of the group whose first process has this id.
pub(crate) fn kill(id: u32) {
    #[cfg(unix)]
    {
        use rustix::process::{Pid, Signal, kill_process_group};

        if let Some(group) = i32::try_from(id).ok().and_then(Pid::from_raw) {
            // An error is ignored, since the processes may already have ended.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
    #[cfg(not(unix))]
    let _ = id;
}

#[cfg(target_os = "linux")]
#[cfg(test)]
pub(crate) mod tests {
    use std::{fs::read_to_string, thread, time::Duration};

    use tempfile::TempDir;
    use tokio::time::Instant;

    /// A command that hangs, and starts a process that hangs as well.
    pub(crate) struct Hanging(TempDir);

    impl Hanging {
        pub(crate) fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        pub(crate) fn script(&self) -> String {
            let file = self.0.path().join("id");
            format!("sleep 1000 & echo $! > '{}'; wait", file.display())
        }

        /// Waits at most 20 seconds for the end of the process that the command started, and returns whether it ended.
        pub(crate) fn child_ends(&self) -> bool {
            let id = read_to_string(self.0.path().join("id")).unwrap();
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(20) {
                let stat = read_to_string(format!("/proc/{}/stat", id.trim())).unwrap_or_default();
                // A killed process stays as a zombie until its new parent waits for it.
                if stat.is_empty() || stat.contains(") Z ") {
                    return true;
                }
                thread::yield_now();
            }
            false
        }
    }
}
