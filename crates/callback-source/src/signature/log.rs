//! Log events and counters of the message checks.

use std::net::IpAddr;

use tokio::time::Instant;
use tracing::{debug, error, warn};

use crate::{LOG_TARGET, MessageRejection, VerifiedMessage, metrics, rate_limit::PeerRateLimit};

pub(crate) fn verified(message: &VerifiedMessage) {
    debug!(target: LOG_TARGET, auth = ?message.auth(), "message verified");
    metrics::message_verdict("valid");
}

pub(crate) fn rejected(
    rejection: &MessageRejection,
    peer: Option<IpAddr>,
    tagged: bool,
    log: &PeerRateLimit,
    now: Instant,
) {
    metrics::message_verdict(rejection.kind().as_str());
    let Some(left_out) = log.admits(peer, now) else {
        return;
    };
    warn!(
        target: LOG_TARGET,
        peer = peer.map(tracing::field::display),
        reason = rejection.kind().as_str(),
        header = rejection.header(),
        cause = std::error::Error::source(rejection).map(tracing::field::display),
        tagged,
        left_out,
        "message not verified"
    );
}

/// Counts a failure of the store of replay marks, and logs the failure if `is_logged` is set.
pub(super) fn replay_store_failed(
    operation: &'static str,
    error: &dyn std::error::Error,
    effect: &str,
    is_logged: bool,
) {
    metrics::replay_store_failure();
    if is_logged {
        warn!(
            target: LOG_TARGET,
            operation,
            cause = error.source().map(tracing::field::display),
            "{error}: {effect}"
        );
    }
}

/// Logs, once per process, that a layer is missing.
pub(crate) fn no_layer() {
    static REPORTED: std::sync::Once = std::sync::Once::new();
    REPORTED.call_once(|| {
        error!(
            target: LOG_TARGET,
            "the verdict that a policy or a handler needs is missing, so every callback is refused; pass the \
             route to `CallbackRoutes` with `signature` or `token`, or put `RequireVerifiedLayer` inside of \
             `VerifySourceLayer` and of `VerifySignatureLayer` or `VerifyTokenLayer`"
        );
    });
}
