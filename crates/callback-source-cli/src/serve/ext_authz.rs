//! Envoy's external authorization over gRPC: `envoy.service.auth.v3.Authorization`.
//!
//! tonic's own server has this listener. Its peers are the merchant's Envoys, so it needs none of the limits
//! that keep callers from each other. Envoy treats a failure of gRPC itself as an endpoint that is down: it is no
//! admission, unless the merchant sets `failure_mode_allow`.

use std::{io, time::Duration};

use callback_source::AllowList;
use futures_util::stream::{self, Stream};
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, sleep},
};
use tonic::transport::server::Connected;
use tonic_health::{ServingStatus, server::HealthReporter};
use tracing::{error, info, warn};

use super::{
    ext_authz_service::Authorization,
    listener::{ACCEPT_PAUSE, Listener},
    peer,
};
use crate::log::OncePerMinute;

/// Serves checks on a listener until [`stop`](ExtAuthzServer::stop).
pub(super) fn start(
    listener: Listener,
    list: AllowList,
    authorization: Authorization,
) -> ExtAuthzServer {
    info!("listening on {} (ext_authz over gRPC)", listener.address());
    let (health, health_service) = tonic_health::server::health_reporter();
    let (stop, stopped) = oneshot::channel::<()>();
    let (not_ready, stopping) = oneshot::channel::<()>();
    tokio::spawn(report_health(list, health, stopping));
    let server = tonic::transport::Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .add_service(health_service)
        .add_service(authorization);
    let serving = tokio::spawn(async move {
        let stopped = async {
            let _ = stopped.await;
        };
        let connections = connections(listener);
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

/// The connections of a listener. tonic's own loop would try again without a pause after an error of the system.
fn connections(listener: Listener) -> impl Stream<Item = io::Result<peer::Stream>> {
    let warnings = OncePerMinute::default();
    stream::unfold((listener, warnings), async |(listener, warnings)| {
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
        Some((Ok(accepted.stream), (listener, warnings)))
    })
}

impl Connected for peer::Stream {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

#[derive(Debug)]
pub(super) struct ExtAuthzServer {
    serving: JoinHandle<()>,
    stop: oneshot::Sender<()>,
    not_ready: Option<oneshot::Sender<()>>,
}

impl ExtAuthzServer {
    /// Makes the health service report that this server stops.
    pub(super) fn announce_stop(&mut self) {
        self.not_ready = None;
    }

    /// Stops accepting, and waits for the requests in flight.
    pub(super) async fn stop(self) {
        drop(self.stop);
        // A panic was reported by tokio's own hook.
        let _ = self.serving.await;
    }
}

/// Keeps the health service equal to `/readyz`. Envoys that check it then choose another replica.
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

/// The same number as for a trusted proxy on the other listener.
const MAX_STREAMS: u32 = 200;

/// Interval of pings, which detect an Envoy that is gone without having closed its connection.
const KEEPALIVE: Duration = Duration::from_secs(60);
