//! Signals to a server.
//!
//! By default, SIGHUP, SIGUSR1 and SIGUSR2 end a process at once, together with its requests. Tools send these signals
//! to request a reload or a new log file, so they must not end `serve`.

use std::{io, sync::Arc};

use tokio::sync::Notify;

/// Signals that end a server, and SIGHUP, which reloads its configuration.
///
/// SIGUSR1 and SIGUSR2 are ignored. A log rotation or a closed terminal must not cause the loss of a callback.
#[cfg(unix)]
pub(super) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    quit: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
    reload: Arc<Notify>,
}

#[cfg(unix)]
impl Signals {
    /// Sets up the signals. Each SIGHUP notifies `reload`.
    pub(super) fn new(reload: Arc<Notify>) -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};

        // Tokio never restores the default action of a signal, so these signals are ignored from now on.
        for ignored in [SignalKind::user_defined1(), SignalKind::user_defined2()] {
            drop(signal(ignored)?);
        }
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hang_up: signal(SignalKind::hangup())?,
            reload,
        })
    }

    pub(super) async fn next(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.quit.recv() => return,
                _ = self.hang_up.recv() => self.reload.notify_one(),
            }
        }
    }
}

#[cfg(not(unix))]
pub(super) struct Signals;

#[cfg(not(unix))]
impl Signals {
    pub(super) fn new(_: Arc<Notify>) -> io::Result<Self> {
        Ok(Self)
    }

    pub(super) async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}
