//! Parts that the signature check and the token check share: the lookup of secrets, and the handling of the verdict.

use std::{fmt, sync::Arc, time::Duration};

use http::{Extensions, request::Parts};
use tokio::time::{Instant, timeout};

use super::{SecretSource, SecretUnavailable, Secrets, log};
use crate::{
    MessageRejection, MessageVerdict, Verdict, VerifiedCallback, check::Mode,
    rate_limit::PeerRateLimit,
};

/// Options that the signature check and the token check share.
pub(super) struct MessageCheck<K> {
    keys: Arc<K>,
    select: Arc<Select>,
    lookup_limit: Duration,
    mode: Mode,
    refusals: Arc<PeerRateLimit>,
}

/// Function that reads the id by which the secrets for a request are looked up.
type Select = dyn Fn(&Parts) -> Option<String> + Send + Sync;

impl<K> MessageCheck<K> {
    pub(super) fn new(
        keys: K,
        mode: Mode,
        select: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        crate::metrics::register_messages();
        Self {
            keys: Arc::new(keys),
            select: Arc::new(select),
            lookup_limit: LOOKUP_LIMIT,
            mode,
            refusals: Arc::new(PeerRateLimit::new(Instant::now())),
        }
    }

    pub(super) fn select_by(
        &mut self,
        select: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static,
    ) {
        self.select = Arc::new(select);
    }

    pub(super) fn lookup_limit(&mut self, limit: Duration) {
        self.lookup_limit = limit;
    }

    #[cfg(feature = "axum")]
    pub(super) fn in_mode(&mut self, mode: Mode) {
        self.mode = mode;
    }

    pub(super) fn is_tagging(&self) -> bool {
        self.mode != Mode::Rejecting
    }

    /// Looks up the secrets, or tokens, for a request.
    pub(super) async fn secrets<T>(&self, parts: &Parts) -> Result<Secrets<T>, MessageRejection>
    where
        K: SecretSource<T>,
    {
        let id = (self.select)(parts).filter(|id| !id.is_empty());
        let looked_up = timeout(self.lookup_limit, self.keys.secrets(id.as_deref())).await;
        let late = |_| Err(SecretUnavailable::new("the lookup took too long"));
        looked_up
            .unwrap_or_else(late)
            .map_err(MessageRejection::from)
    }

    /// Logs and counts a verdict. Puts the verdict into the extensions, or returns the reason for a refusal.
    pub(super) fn act(
        &self,
        verdict: MessageVerdict,
        extensions: &mut Extensions,
    ) -> Result<(), MessageRejection> {
        match &verdict {
            MessageVerdict::Allow(message) => log::verified(message),
            MessageVerdict::Reject(rejection) => self.report(rejection, extensions),
        }
        // Removes the result of an outer `RequireVerified`, which did not include this verdict.
        extensions.remove::<VerifiedCallback>();
        // A message that an outer check rejected stays rejected, whatever the verdict of this check.
        let is_rejected = extensions
            .get::<MessageVerdict>()
            .is_some_and(|outer| !outer.is_allowed());
        match verdict {
            MessageVerdict::Reject(rejection) if !self.is_tagging() => return Err(rejection),
            _ if is_rejected => {}
            verdict => {
                extensions.insert(verdict);
            }
        }
        Ok(())
    }

    pub(super) fn report(&self, rejection: &MessageRejection, extensions: &Extensions) {
        let peer = extensions.get::<Verdict>().and_then(Verdict::peer);
        let tagged = self.is_tagging();
        log::rejected(rejection, peer, tagged, &self.refusals, Instant::now());
    }
}

impl<K> Clone for MessageCheck<K> {
    fn clone(&self) -> Self {
        Self {
            keys: Arc::clone(&self.keys),
            select: Arc::clone(&self.select),
            lookup_limit: self.lookup_limit,
            mode: self.mode,
            refusals: Arc::clone(&self.refusals),
        }
    }
}

impl<K> fmt::Debug for MessageCheck<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageCheck")
            .field("mode", &self.mode)
            .field("lookup_limit", &self.lookup_limit)
            .finish_non_exhaustive()
    }
}

/// Default time limit of a lookup. It is below the time for which the sender waits for a response: ten seconds for the
/// Webhooks API, and three seconds for eCom.
const LOOKUP_LIMIT: Duration = Duration::from_secs(2);
