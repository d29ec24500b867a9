//! Support for the end-to-end tests: a DNS server that can be told to fail, an HTTP client that can
//! choose the address it comes from, a merchant's web server behind the layer, a resolver that
//! follows a script, and real servers.

use std::{future::Future, time::Duration};

use tokio::time::{sleep, timeout};

pub mod http;
pub mod log;
pub mod merchant;
pub mod name_servers;
pub mod servers;

pub use callback_source_testkit::dns;

/// Waits for what a test cannot do without, and fails the test when it takes far too long.
///
/// In a test with paused time the limit is that many virtual seconds.
///
/// # Panics
///
/// After a minute.
pub async fn within<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(60), future)
        .await
        .expect("what the test waits for does not happen")
}

/// Waits until a condition holds that nothing tells of.
///
/// # Panics
///
/// After a minute.
pub async fn until(condition: impl Fn() -> bool) {
    within(async {
        while !condition() {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
