//! Killing a command with all processes that it started.

/// Kills every process of the group whose first process has this id. Does nothing on systems without process groups.
#[cfg_attr(not(unix), allow(unused_variables))]
pub(crate) fn kill(id: u32) {
    #[cfg(unix)]
    {
        use rustix::process::{Pid, Signal, kill_process_group};

        if let Some(group) = i32::try_from(id).ok().and_then(Pid::from_raw) {
            // An error is ignored, since the processes may already have ended.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(target_os = "linux")]
#[cfg(test)]
pub(crate) mod tests {
    use std::{fs::read_to_string, thread, time::Duration};

    use tokio::time::Instant;

    /// Waits at most 20 seconds for the end of a process, and returns whether it ended.
    pub(crate) fn ends(id: &str) -> bool {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(20) {
            let stat = read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            // A killed process stays as a zombie until its new parent waits for it.
            if stat.is_empty() || stat.contains(") Z ") {
                return true;
            }
            thread::yield_now();
        }
        false
    }
}
