//! `watch`: the events of the running server, as they happen.

use std::{
    io::Write,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use tokio::time::Instant;

use super::history::{entries, is_change, line};
use crate::{
    args::WatchArgs, error::Error, journal::Entry, outcome::Outcome, output, process_group,
};

pub(crate) fn run(args: &WatchArgs) -> Result<Outcome, Error> {
    // Earlier events are not shown.
    let before = entries(&args.ask, "/history.jsonl")?;
    let mut last = before.last().map_or(0, |entry| entry.id);
    output::message("note", "waiting for events; interrupt to end");
    let mut is_reached = true;
    loop {
        thread::sleep(INTERVAL);
        let new = match entries(&args.ask, &format!("/history.jsonl?after={last}")) {
            Ok(new) => new,
            // The server may be restarting.
            Err(error) => {
                if is_reached {
                    output::failure(&error);
                }
                is_reached = false;
                continue;
            }
        };
        is_reached = true;
        for entry in new {
            last = entry.id;
            let text = match args.ask.json {
                true => serde_json::to_string(&entry).unwrap_or_default(),
                false => line(&entry),
            };
            output::data(format!("{text}\n").as_bytes())?;
            if let Some(command) = &args.on_change
                && is_change(&entry.event)
            {
                run_command(command, &entry, COMMAND_LIMIT);
            }
        }
    }
}

/// Runs a command in a shell and waits until the shell has ended, so that two commands do not run at once. At the time
/// limit, the shell is killed, on Unix with every process of its group.
fn run_command(command: &str, entry: &Entry, limit: Duration) {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).stdin(Stdio::piped());
    process_group::separate(&mut shell);
    let mut child = match shell.spawn() {
        Ok(child) => child,
        Err(error) => {
            output::message("warning", format_args!("cannot run `{command}`: {error}"));
            return;
        }
    };
    if let Some(mut stdin) = child.stdin.take() {
        let text = serde_json::to_string(entry).unwrap_or_default();
        // An error is ignored, since a command need not read its input. The write does not block, because the event
        // fits into the buffer of the pipe.
        let _ = stdin.write_all(format!("{text}\n").as_bytes());
    }
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return,
            Ok(Some(status)) => {
                output::message("warning", format_args!("`{command}` failed: {status}"));
                return;
            }
            Ok(None) if start.elapsed() < limit => thread::sleep(COMMAND_CHECK),
            Ok(None) | Err(_) => {
                process_group::kill(child.id());
                let _ = child.kill();
                let _ = child.wait();
                let limit = limit.as_secs();
                output::message(
                    "warning",
                    format_args!("`{command}` was killed after {limit} s"),
                );
                return;
            }
        }
    }
}

const INTERVAL: Duration = Duration::from_secs(1);
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
const COMMAND_CHECK: Duration = Duration::from_millis(20);

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Event;

    #[test]
    fn a_command_that_hangs_is_killed_with_its_children() {
        let hanging = process_group::tests::Hanging::new();
        let entry = Entry {
            id: 1,
            at: String::new(),
            event: Event::Added {
                host: "a.example".to_owned(),
                address: [192, 0, 2, 1].into(),
            },
        };
        run_command(&hanging.script(), &entry, Duration::from_millis(1_500));
        assert!(hanging.child_ends());
    }
}
