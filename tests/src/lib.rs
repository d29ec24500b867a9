//! Support for the end-to-end tests: an HTTP client with a choice of its source address, a merchant's
//! web server behind the layer, captured log lines, and real DNS servers and proxies as processes.
//!
//! The DNS server and the scripted resolver are in `callback-source-testkit`.

use std::{future::Future, time::Duration};

use tokio::time::{sleep, timeout};

pub mod http;
pub mod log;
pub mod merchant;
pub mod name_servers;
#[cfg(target_os = "linux")]
pub mod netns;
pub mod servers;

pub use callback_source_testkit::dns;

/// Waits for a future for at most a minute. If tokio's time is paused, the minute takes no real time.
///
/// # Panics
///
/// If the future is not ready within the minute.
pub async fn within<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(60), future)
        .await
        .expect("the test waited for a minute")
}

/// Polls a condition until it is true.
///
/// # Panics
///
/// If the condition is not true within a minute.
pub async fn until(condition: impl Fn() -> bool) {
    within(async {
        while !condition() {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
