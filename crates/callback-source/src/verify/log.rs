//! Log events of the source check, and the counter of PROXY headers.

use std::{net::IpAddr, sync::Once};

use http::Method;
use tokio::time::Instant;
use tracing::{debug, error, warn};

use crate::{Allowed, LOG_TARGET, Rejection, RejectionKind, rate_limit::PeerRateLimit};

pub(crate) fn allowed(allowed: &Allowed) {
    debug!(
        target: LOG_TARGET,
        peer = %allowed.peer(),
        host = allowed.host().map(tracing::field::display),
        network = allowed.network().map(tracing::field::display),
        freshness = allowed.freshness().as_str(),
        "callback admitted"
    );
}

/// Logs a refusal. `hosts` is called only if its result is logged.
pub(crate) fn refused(
    rejection: &Rejection,
    method: &Method,
    tagged: bool,
    log: &PeerRateLimit,
    hosts: impl FnOnce() -> String,
    now: Instant,
) {
    let Some(left_out) = log.admits(rejection.peer(), now) else {
        return;
    };
    if rejection.kind() == RejectionKind::NoPeer {
        error!(
            target: LOG_TARGET,
            left_out,
            "a request carries no peer address, so every callback is refused; with axum serve \
             `app.into_make_service_with_connect_info::<SocketAddr>()` and use `ConnectInfoPeer`, \
             which reads the `ConnectInfo` of axum 0.8 only: with another version of axum, read it in a \
             closure; with another server, put the `SocketAddr` into the request's extensions and use \
             `SocketAddrPeer`"
        );
        return;
    }
    let what = if tagged {
        "let through with a tag"
    } else {
        "refused"
    };
    warn!(
        target: LOG_TARGET,
        peer = rejection.peer().map(tracing::field::display),
        reason = rejection.kind().as_str(),
        hosts = hosts(),
        left_out,
        explanation = rejection.explanation(),
        "callback {what}"
    );
    if !tagged && let Some(peer) = rejection.peer() {
        refused_probe(peer, method);
    }
}

/// Logs, once per process, that the check may have refused a health probe. A callback is never a `GET`, and no provider
/// calls from this machine or its network.
fn refused_probe(peer: IpAddr, method: &Method) {
    static REPORTED: Once = Once::new();
    if matches!(*method, Method::GET | Method::HEAD) && is_local(peer) {
        REPORTED.call_once(|| {
            error!(
                target: LOG_TARGET,
                %peer,
                %method,
                "a request from this machine or its network was refused; if it is a health probe, put its \
                 route outside of the source check: pass only the routes of callbacks to `CallbackRoutes`, or \
                 use `route_layer`"
            );
        });
    }
}

fn is_local(peer: IpAddr) -> bool {
    match peer.to_canonical() {
        IpAddr::V4(peer) => peer.is_loopback() || peer.is_private() || peer.is_link_local(),
        IpAddr::V6(peer) => {
            peer.is_loopback() || peer.is_unique_local() || peer.is_unicast_link_local()
        }
    }
}

/// Logs, once per process, that a handler is outside of the layer whose verdict the handler needs.
#[cfg(feature = "axum")]
pub(super) fn no_layer() {
    static REPORTED: Once = Once::new();
    REPORTED.call_once(|| {
        error!(
            target: LOG_TARGET,
            "a handler takes `Allowed` or `Verdict`, but its route is outside of `VerifySourceLayer`, so every \
             callback to it is refused; pass the route to `CallbackRoutes`, or add it to the router before \
             `.layer(…)`"
        );
    });
}

/// Counts an attempt to read a PROXY protocol header, and logs a failure. `outcome` is the label of a normal outcome,
/// or the reason for a failure.
#[cfg(all(feature = "axum", feature = "proxy-protocol"))]
pub(crate) fn proxy_header(
    outcome: Result<&'static str, &'static str>,
    peer: IpAddr,
    log: &PeerRateLimit,
    now: Instant,
) {
    crate::metrics::proxy_header(outcome.unwrap_or_else(|reason| reason));
    let Err(reason) = outcome else {
        return;
    };
    if let Some(left_out) = log.admits(Some(peer), now) {
        warn!(
            target: LOG_TARGET,
            %peer,
            reason,
            left_out,
            "connection of a trusted proxy closed: no valid PROXY protocol header"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_of_this_machine_and_its_network_are_local() {
        let is_local = |peer: &str| is_local(peer.parse().unwrap());
        for peer in [
            "127.0.0.1",
            "10.1.2.3",
            "192.168.1.1",
            "169.254.1.1",
            "::ffff:10.1.2.3",
        ] {
            assert!(is_local(peer), "{peer}");
        }
        for peer in ["::1", "fd00::1", "fe80::1"] {
            assert!(is_local(peer), "{peer}");
        }
        for peer in ["20.0.0.1", "2a01::1"] {
            assert!(!is_local(peer), "{peer}");
        }
    }

    #[cfg(all(feature = "axum", feature = "proxy-protocol"))]
    #[tokio::test(start_paused = true)]
    async fn a_bad_proxy_header_is_logged_and_a_good_one_is_not() {
        let peer = [20, 0, 0, 1].into();
        let is_logged = |outcome| {
            let log = PeerRateLimit::new(Instant::now());
            proxy_header(outcome, peer, &log, Instant::now());
            log.admits(Some(peer), Instant::now()).is_none()
        };
        assert!(!is_logged(Ok("v2")));
        assert!(is_logged(Err("malformed")));
    }
}
