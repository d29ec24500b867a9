//! Log events and counts of message verdicts.

use std::net::IpAddr;

use tokio::time::Instant;
use tracing::{debug, error, warn};

use crate::{LOG_TARGET, MessageRejection, VerifiedMessage, metrics, rate_limit::PeerRateLimit};

pub(crate) fn proven(signed: &VerifiedMessage) {
    debug!(target: LOG_TARGET, proof = ?signed.auth(), "callback proven");
    metrics::message_verdict("valid");
}

pub(crate) fn unproven(
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
        "callback not proven"
    );
}

/// Said once: it shows with the first request that anybody makes.
pub(crate) fn no_layer() {
    static SAID: std::sync::Once = std::sync::Once::new();
    SAID.call_once(|| {
        error!(
            target: LOG_TARGET,
            "a policy asks for a verdict that no layer gave, so every callback is refused; put \
             `RequireVerifiedLayer` inside of `VerifySourceLayer` and of `VerifySignatureLayer` or \
             `VerifyTokenLayer`"
        );
    });
}
