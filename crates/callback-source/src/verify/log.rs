//! Log events of the source check, and the counter of PROXY headers.

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

/// `hosts` is called only if there is something to log.
pub(crate) fn refused(
    rejection: &Rejection,
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
             otherwise put the `SocketAddr` into the request's extensions and use `SocketAddrPeer`"
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
}

/// Reports the outcome of reading a PROXY protocol header: its kind, or the reason for closing the connection.
#[cfg(all(feature = "axum", feature = "proxy-protocol"))]
pub(crate) fn proxy_header(
    outcome: Result<&'static str, &'static str>,
    peer: std::net::IpAddr,
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
