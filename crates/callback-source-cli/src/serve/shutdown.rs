//! End of the process after the server has stopped.

use std::{future::Future, thread, time::Duration};

use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
    time::Instant,
};
use tracing::warn;

/// Shuts down the runtime, which writes the state file first. Returns at the latest when the time limit ends or when a
/// signal arrives.
///
/// A write to a disk that does not respond never ends, and dropping the runtime would wait for this write. The signal
/// is awaited on another runtime, since this runtime no longer reports signals.
pub(super) fn shut_down(runtime: Runtime, limit: Duration, signal: impl Future<Output = ()>) {
    let Ok(signal_runtime) = Builder::new_current_thread().enable_all().build() else {
        runtime.shutdown_timeout(limit);
        return;
    };
    let (end, ended) = oneshot::channel();
    let start = Instant::now();
    let spawned = thread::Builder::new().spawn(move || {
        runtime.shutdown_timeout(limit);
        let _ = end.send(());
    });
    if spawned.is_err() {
        // The runtime was dropped with the closure.
        return;
    }
    signal_runtime.block_on(async {
        tokio::select! {
            _ = ended => {
                if start.elapsed() >= limit {
                    warn!(
                        "stopped before all work had ended, such as writing the state file: waited for {limit:?}"
                    );
                }
            }
            () = signal => warn!("stopped at once by a second signal"),
        }
    });
}

/// Time limit for requests in flight when the server stops.
pub(super) const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Time limit for writing the state file.
pub(super) const SHUTDOWN_LIMIT: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        sync::mpsc,
    };

    use super::*;

    /// Returns a runtime on which a write is in progress. The write ends when the sender is dropped.
    fn stuck() -> (Runtime, mpsc::Sender<()>) {
        let runtime = Builder::new_multi_thread().enable_all().build().unwrap();
        let (release, released) = mpsc::channel::<()>();
        let (start, started) = mpsc::channel();
        runtime.spawn_blocking(move || {
            start.send(()).unwrap();
            let _ = released.recv();
        });
        started.recv().unwrap();
        (runtime, release)
    }

    #[test]
    fn a_stuck_disk_does_not_keep_the_server_from_ending() {
        let (runtime, _release) = stuck();
        shut_down(runtime, Duration::from_millis(10), pending());
    }

    #[test]
    fn a_signal_ends_the_server_while_its_disk_is_stuck() {
        let (runtime, _release) = stuck();
        let start = Instant::now();
        shut_down(runtime, Duration::from_secs(60), ready(()));
        assert!(start.elapsed() < Duration::from_secs(60));
    }
}
