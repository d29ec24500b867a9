//! Envoy's external authorization over gRPC: `envoy.service.auth.v3.Authorization`.
//!
//! tonic's own server has this listener. Its peers are the merchant's Envoys, so it needs none of the limits
//! that keep callers from each other. Envoy treats a failure of gRPC itself as an endpoint that is down: it is no
//! admission, unless the merchant sets `failure_mode_allow`.

use std::{net::SocketAddr, time::Duration};

use callback_source::{
    AllowList,
    verify::{ForwardedPeer, SocketAddrPeer},
};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle, time::sleep};
use tonic::transport::server::TcpIncoming;
use tonic_health::{ServingStatus, server::HealthReporter};
use tracing::{error, info};

use super::{ext_authz_service::Authorization, verify::Verify};
use crate::{
    args::ServeArgs,
    config::{Client, Proxies, has_network},
    error::Error,
};

/// A bound listener, before it serves.
#[derive(Debug)]
pub(super) struct ExtAuthz(TcpListener);

impl ExtAuthz {
    pub(super) async fn bind(address: SocketAddr) -> Result<Self, Error> {
        let bound = TcpListener::bind(address).await;
        let listener = bound.map_err(|cause| Error::Listen {
            address: address.to_string(),
            cause,
        })?;
        Ok(Self(listener))
    }

    pub(super) fn start(self, list: AllowList, verify: Verify) -> ExtAuthzServer {
        match self.0.local_addr() {
            Ok(address) => info!("listening on {address} (ext_authz over gRPC)"),
            Err(error) => error!("unknown address of the ext_authz listener: {error}"),
        }
        let (health, health_service) = tonic_health::server::health_reporter();
        let (stop, stopped) = oneshot::channel::<()>();
        let (not_ready, stopping) = oneshot::channel::<()>();
        tokio::spawn(report_health(list, health, stopping));
        let server = tonic::transport::Server::builder()
            .max_concurrent_streams(MAX_STREAMS)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .add_service(health_service)
            .add_service(Authorization::new(verify));
        let incoming = TcpIncoming::from(self.0).with_nodelay(Some(true));
        let serving = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            if let Err(error) = server.serve_with_incoming_shutdown(incoming, stopped).await {
                error!("the ext_authz listener failed: {error}");
            }
        });
        ExtAuthzServer {
            serving,
            stop,
            not_ready: Some(not_ready),
        }
    }
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

/// Returns the source of the client's address: `attributes.source.address` of the check, or the header of a
/// trusted proxy in front of Envoy.
pub(super) fn client(args: &ServeArgs, proxies: &Proxies) -> Client {
    match &args.proxy.client_ip_header {
        Some(header) if has_network(&args.proxy.trusted_proxy) => Client::Forwarded(
            ForwardedPeer::header(SocketAddrPeer, proxies.trusted.clone(), header.clone()),
        ),
        _ => Client::Peer,
    }
}

const HEALTH_INTERVAL: Duration = Duration::from_secs(1);

/// The same number as for a trusted proxy on the other listener.
const MAX_STREAMS: u32 = 200;

/// Interval of pings, which detect an Envoy that is gone without having closed its connection.
const KEEPALIVE: Duration = Duration::from_secs(60);
