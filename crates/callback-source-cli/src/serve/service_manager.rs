//! Messages to the service manager: systemd's `sd_notify` protocol, and its watchdog.
//!
//! Without `NOTIFY_SOCKET` in the environment, nothing is sent.

use std::{fmt, sync::mpsc::SyncSender, time::Duration};

use callback_source::AllowList;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::info;

/// Sender of messages to the service manager.
///
/// A separate thread sends the messages in order, because the manager's socket may block. A message that does not fit
/// into the queue is dropped.
#[derive(Clone, Debug)]
pub(super) struct ServiceManager {
    messages: Option<SyncSender<String>>,
}

impl ServiceManager {
    pub(super) fn from_env() -> Self {
        Self {
            messages: messages_of_environment(),
        }
    }

    /// Reports that the server listens, or that a reload has ended.
    pub(super) fn ready(&self) {
        self.send("READY=1");
    }

    /// Reports the start of a reload. [`ready`](Self::ready) reports the end of the reload, even if the reload failed.
    pub(super) fn reloading(&self) {
        // For a unit with `Type=notify-reload`, systemd ignores the message without the time.
        #[cfg(unix)]
        if let Ok(now) = sd_notify::NotifyState::monotonic_usec_now() {
            self.send(format_args!("RELOADING=1\n{now}"));
        }
    }

    /// Reports that the server is stopping, and how long the stop may take.
    pub(super) fn stopping(&self, limit: Duration) {
        let limit = limit.as_micros();
        self.send(format_args!("STOPPING=1\nEXTEND_TIMEOUT_USEC={limit}"));
    }

    /// Sets the line that `systemctl status` shows.
    pub(super) fn status(&self, text: impl fmt::Display) {
        self.send(format_args!("STATUS={text}"));
    }

    /// Reports when the list becomes ready, in the log as well.
    pub(super) async fn report_ready(self, list: AllowList) {
        let start = Instant::now();
        self.status("waiting for the first answers");
        list.ready().await;
        let addresses = list.snapshot().addresses(Instant::now().into_std()).len();
        info!(addresses, after = ?start.elapsed(), "ready");
        self.status(format_args!("ready: {addresses} addresses are admitted"));
    }

    /// Sends the watchdog's keep-alive messages while the runtime executes tasks.
    pub(super) async fn keep_watchdog_alive(self) {
        let Some(limit) = watchdog() else {
            return;
        };
        let mut interval = interval((limit / 2).max(Duration::from_millis(1)));
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            self.send("WATCHDOG=1");
        }
    }

    fn send(&self, message: impl fmt::Display) {
        if let Some(messages) = &self.messages {
            let _ = messages.try_send(message.to_string());
        }
    }
}

#[cfg(unix)]
fn messages_of_environment() -> Option<SyncSender<String>> {
    use std::{sync::mpsc::sync_channel, thread};

    use sd_notify::NotifyState::Custom;

    std::env::var_os("NOTIFY_SOCKET")?;
    let (sender, messages) = sync_channel::<String>(QUEUE);
    let spawned = thread::Builder::new()
        .name("service-manager".to_owned())
        .spawn(move || {
            for message in messages {
                // An error is ignored: the manager has ended, or a later message may reach it.
                let _ = sd_notify::notify(&[Custom(&message)]);
            }
        });
    spawned.is_ok().then_some(sender)
}

#[cfg(not(unix))]
fn messages_of_environment() -> Option<SyncSender<String>> {
    None
}

/// Time limit of the watchdog, if the service manager has set one for this process.
#[cfg(unix)]
fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero())
}

#[cfg(not(unix))]
fn watchdog() -> Option<Duration> {
    None
}

/// Maximum number of messages that wait for the service manager.
#[cfg(unix)]
const QUEUE: usize = 16;
