//! Commands with a time limit, and with a limit on the output that is kept.

use std::{
    io,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    time::timeout,
};

use crate::process_group;

/// Outcome of a command that ended.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) status: ExitStatus,
    pub(super) stdout: Output,
    pub(super) stderr: Output,
}

/// Beginning of an output. `is_cut` is `true` if the output was longer.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) bytes: Vec<u8>,
    pub(super) is_cut: bool,
}

/// Runs a command with this input. At the time limit, the command is killed, on Unix with every process of its group.
///
/// # Errors
///
/// Fails if the command cannot be started. Fails with [`io::ErrorKind::TimedOut`] at the time limit.
pub(super) async fn run(
    command: &mut Command,
    input: &[u8],
    limits: Limits,
) -> io::Result<Finished> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    process_group::separate(command.as_std_mut());
    let mut child = command.spawn()?;
    let stdin = child.stdin.take();
    let (mut stdout, mut stderr) = (Output::default(), Output::default());
    let pipes = (child.stdout.take(), child.stderr.take());
    let work = async {
        let pipes = async {
            tokio::join!(
                async {
                    if let Some(mut stdin) = stdin {
                        // A command that does not read its input may end before the input is written.
                        let _ = stdin.write_all(input).await;
                    }
                },
                stdout.read(pipes.0, limits.output),
                stderr.read(pipes.1, limits.output),
            );
        };
        let mut pipes = std::pin::pin!(pipes);
        tokio::select! {
            () = &mut pipes => child.wait().await,
            status = child.wait() => {
                // A background process of the command can keep the pipes open after the command has ended.
                let _ = timeout(AFTER_END, pipes).await;
                status
            }
        }
    };
    let status = match timeout(limits.time, work).await {
        Ok(status) => status?,
        Err(_) => {
            kill(&mut child).await;
            let message = format!("it was ended after {:?}", limits.time);
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
    };
    Ok(Finished {
        status,
        stdout,
        stderr,
    })
}

/// Limits of a command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) time: Duration,
    /// Maximum number of bytes that are kept of each output. The rest is read and dropped, so that the command is not
    /// blocked.
    pub(super) output: usize,
}

impl Output {
    async fn read(&mut self, pipe: Option<impl AsyncRead + Unpin>, max: usize) {
        let Some(mut pipe) = pipe else {
            return;
        };
        let mut chunk = [0; 4096];
        while let Ok(length @ 1..) = pipe.read(&mut chunk).await {
            let room = max.saturating_sub(self.bytes.len()).min(length);
            self.bytes.extend_from_slice(&chunk[..room]);
            self.is_cut |= room < length;
        }
    }

    /// Returns the output as one line.
    pub(super) fn line(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        let words: Vec<_> = text.split_whitespace().collect();
        let more = if self.is_cut { " …" } else { "" };
        words.join(" ") + more
    }
}

async fn kill(child: &mut Child) {
    if let Some(id) = child.id() {
        process_group::kill(id);
    }
    // An error is ignored, since the command may already have ended.
    let _ = child.kill().await;
}

/// Time limit for reading the last output of a command that has ended.
const AFTER_END: Duration = Duration::from_millis(200);

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn limits(millis: u64) -> Limits {
        Limits {
            time: Duration::from_millis(millis),
            output: 10,
        }
    }

    #[tokio::test]
    async fn input_output_and_status_are_passed() {
        let mut command = shell("cat; echo bad >&2; exit 3");
        let finished = run(&mut command, b"hello", limits(20_000)).await.unwrap();
        assert_eq!(finished.status.code(), Some(3));
        assert_eq!(finished.stdout.bytes, b"hello");
        assert_eq!(finished.stderr.line(), "bad");
    }

    #[tokio::test]
    async fn a_flood_of_output_neither_blocks_the_command_nor_fills_the_memory() {
        let mut command = shell("head -c 10000000 /dev/zero | tr '\\0' x; exit 4");
        let finished = run(&mut command, b"", limits(60_000)).await.unwrap();
        assert_eq!(finished.status.code(), Some(4));
        assert_eq!(finished.stdout.line(), "xxxxxxxxxx …");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_command_that_hangs_is_killed_with_its_children() {
        let hanging = process_group::tests::Hanging::new();
        let error = run(&mut shell(&hanging.script()), b"", limits(1_500)).await;
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(hanging.child_ends());
    }

    #[tokio::test]
    async fn a_process_in_the_background_does_not_delay_the_end() {
        let mut command = shell("echo started; sleep 1000 & exit 0");
        let finished = run(&mut command, b"", limits(60_000)).await.unwrap();
        assert!(finished.status.success());
        assert_eq!(finished.stdout.line(), "started");
    }
}
