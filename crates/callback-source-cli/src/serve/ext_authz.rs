//! Envoy's external authorization over gRPC: `envoy.service.auth.v3.Authorization`.
//!
//! tonic's own server serves this listener. The peers of the listener are the merchant's Envoys. The listener therefore
//! needs no rules that protect callers from each other, only [limits](super::ext_authz_limits). If gRPC itself fails,
//! Envoy behaves as if the endpoint were down. Such a failure admits no callback, unless the merchant sets
//! `failure_mode_allow`.

use std::{io, sync::Arc, time::Duration};

use callback_source::AllowList;
use futures_util::stream::{self, Stream};
use tokio::{
    sync::{Semaphore, oneshot},
    task::JoinHandle,
    time::{Instant, sleep},
};
use tonic_health::{ServingStatus, server::HealthReporter};
use tracing::{error, info, warn};

use super::{
    ext_authz_limits::Connection,
    ext_authz_service::Authorization,
    listener::{ACCEPT_PAUSE, Listener},
};
use crate::log::OncePerMinute;

/// Serves checks on a listener until [`stop`](ExtAuthzServer::stop).
pub(super) fn start(
    listener: Listener,
    list: AllowList,
    authorization: Authorization,
    max_connections: usize,
) -> ExtAuthzServer {
    info!("listening on {} (ext_authz over gRPC)", listener.address());
    let (health, health_service) = tonic_health::server::health_reporter();
    let (stop, stopped) = oneshot::channel::<()>();
    let (not_ready, stopping) = oneshot::channel::<()>();
    tokio::spawn(report_health(list, health, stopping));
    let server = tonic::transport::Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .timeout(CHECK_TIME)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .add_service(health_service)
        .add_service(authorization);
    let serving = tokio::spawn(async move {
        let stopped = async {
            let _ = stopped.await;
        };
        let connections = connections(listener, max_connections);
        if let Err(error) = server
            .serve_with_incoming_shutdown(connections, stopped)
            .await
        {
            error!("the ext_authz listener failed: {error}");
        }
    });
    ExtAuthzServer {
        serving,
        stop,
        not_ready: Some(not_ready),
    }
}

/// Accepts the connections of a listener. A connection above the limit waits until another connection ends.
///
/// tonic's own accept loop has no limit, and tries again without a pause after a system error.
fn connections(listener: Listener, max: usize) -> impl Stream<Item = io::Result<Connection>> {
    let permits = Arc::new(Semaphore::new(max));
    let warnings = OncePerMinute::default();
    let state = (listener, permits, warnings);
    stream::unfold(state, async |(listener, permits, warnings)| {
        if permits.available_permits() == 0 && warnings.admits(Instant::now()) {
            warn!("all connections of the ext_authz listener are in use; new ones wait");
        }
        let permit = Arc::clone(&permits).acquire_owned().await.ok()?;
        let accepted = loop {
            match listener.accept().await {
                Ok(accepted) => break accepted,
                Err(error) => {
                    if warnings.admits(Instant::now()) {
                        warn!("connections cannot be accepted: {error}");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        };
        let connection = Connection::new(accepted.stream, permit);
        Some((Ok(connection), (listener, permits, warnings)))
    })
}

#[derive(Debug)]
pub(super) struct ExtAuthzServer {
    serving: JoinHandle<()>,
    stop: oneshot::Sender<()>,
    not_ready: Option<oneshot::Sender<()>>,
}

impl ExtAuthzServer {
    /// Makes the health service report that this server does not serve, because it is stopping.
    pub(super) fn announce_stop(&mut self) {
        self.not_ready = None;
    }

    /// Stops accepting connections, and waits for the requests in flight.
    pub(super) async fn stop(self) {
        drop(self.stop);
        // If the task panicked, the panic hook has already reported the panic.
        let _ = self.serving.await;
    }
}

/// Makes the health service report the same state as `/readyz`. While this server is not ready, Envoys that query the
/// health service choose another replica.
async fn report_health(
    list: AllowList,
    health: HealthReporter,
    mut stopping: oneshot::Receiver<()>,
) {
    loop {
        let status = match list.is_ready() {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        health.set_service_status("", status).await;
        tokio::select! {
            () = sleep(HEALTH_INTERVAL) => {}
            _ = &mut stopping => break,
        }
    }
    health
        .set_service_status("", ServingStatus::NotServing)
        .await;
}

const HEALTH_INTERVAL: Duration = Duration::from_secs(1);

/// Maximum number of connections. An Envoy opens one connection for each of its worker threads.
pub(super) const MAX_CONNECTIONS: u32 = 1024;

/// Time limit for a check, from the head of the request to the response. A check waits at most a second for an
/// on-demand refresh.
const CHECK_TIME: Duration = Duration::from_secs(10);

/// Maximum number of unread bytes on a connection: the default of HTTP/2. tonic's own default is a mebibyte.
const WINDOW: u32 = 65_535;

/// Maximum number of concurrent checks on a connection, as for a trusted proxy on the main listener.
const MAX_STREAMS: u32 = 200;

/// Interval between pings. The pings detect an Envoy that has disappeared without closing its connection.
const KEEPALIVE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::{FutureExt, StreamExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::serve::inherited::Inherited;

    #[tokio::test]
    async fn a_connection_above_the_limit_waits_until_another_one_ends() {
        let listener =
            Listener::bind_plain("127.0.0.1:0".parse().unwrap(), &mut Inherited::default())
                .unwrap();
        let Listener::Tcp { queue, .. } = &listener else {
            panic!("it is TCP");
        };
        let address = queue.local_addr().unwrap();
        let mut connections = pin!(connections(listener, 2));
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(TcpStream::connect(address).await.unwrap());
        }
        let first = connections.next().await.unwrap().unwrap();
        let _second = connections.next().await.unwrap().unwrap();
        for _ in 0..100 {
            tokio::task::yield_now().await;
            assert!(connections.next().now_or_never().is_none());
        }
        drop(first);
        assert!(connections.next().await.unwrap().is_ok());
    }
}
