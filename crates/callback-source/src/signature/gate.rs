//! What both message layers do around their check.

use std::{fmt, sync::Arc, time::Duration};

use http::{Extensions, request::Parts};
use tokio::time::{Instant, timeout};

use super::{SecretSource, SecretUnavailable, Secrets, log};
use crate::{
    Allowed, MessageRejection, MessageVerdict, Verdict, VerifiedCallback, rate_limit::PeerRateLimit,
};

/// The options that both layers have.
pub(super) struct Gate<K> {
    keys: Arc<K>,
    select: Arc<Select>,
    lookup_limit: Duration,
    tagging: bool,
    refusals: Arc<PeerRateLimit>,
}

/// What the source of secrets is asked for.
type Select = dyn Fn(&Parts) -> Option<String> + Send + Sync;

impl<K> Gate<K> {
    pub(super) fn new(
        keys: K,
        tagging: bool,
        select: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        Self {
            keys: Arc::new(keys),
            select: Arc::new(select),
            lookup_limit: LOOKUP_LIMIT,
            tagging,
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

    pub(super) fn is_tagging(&self) -> bool {
        self.tagging
    }

    /// The secrets, or tokens, for a request.
    pub(super) async fn secrets<T>(&self, parts: &Parts) -> Result<Secrets<T>, MessageRejection>
    where
        K: SecretSource<T>,
    {
        let id = (self.select)(parts).filter(|id| !id.is_empty());
        let looked_up = timeout(self.lookup_limit, self.keys.secrets(id.as_deref())).await;
        let late = |_| Err(SecretUnavailable::new("the look-up took too long"));
        looked_up
            .unwrap_or_else(late)
            .map_err(MessageRejection::from)
    }

    /// Reports a verdict, and marks the request with it or gives the reason to refuse it.
    pub(super) fn act(
        &self,
        verdict: MessageVerdict,
        extensions: &mut Extensions,
    ) -> Result<(), MessageRejection> {
        match &verdict {
            MessageVerdict::Allow(signed) => log::proven(signed),
            MessageVerdict::Reject(rejection) => self.report(rejection, extensions),
        }
        // Joined by an outer layer, before this verdict was there.
        extensions.remove::<VerifiedCallback>();
        // What a message layer outside of this one found wrong does not become right by this one.
        let refuted = extensions
            .get::<MessageVerdict>()
            .is_some_and(|outer| !outer.is_allowed());
        match verdict {
            MessageVerdict::Reject(rejection) if !self.tagging => return Err(rejection),
            _ if refuted => {}
            verdict => {
                extensions.insert(verdict);
            }
        }
        Ok(())
    }

    pub(super) fn report(&self, rejection: &MessageRejection, extensions: &Extensions) {
        let allowed = extensions.get::<Allowed>().map(Allowed::peer);
        let refused = || extensions.get::<Verdict>()?.rejection()?.peer();
        let peer = allowed.or_else(refused);
        log::unproven(
            rejection,
            peer,
            self.tagging,
            &self.refusals,
            Instant::now(),
        );
    }
}

impl<K> Clone for Gate<K> {
    fn clone(&self) -> Self {
        Self {
            keys: Arc::clone(&self.keys),
            select: Arc::clone(&self.select),
            lookup_limit: self.lookup_limit,
            tagging: self.tagging,
            refusals: Arc::clone(&self.refusals),
        }
    }
}

impl<K> fmt::Debug for Gate<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("tagging", &self.tagging)
            .field("lookup_limit", &self.lookup_limit)
            .finish_non_exhaustive()
    }
}

/// Well within the ten seconds that the Webhooks API waits, and the three of eCom.
const LOOKUP_LIMIT: Duration = Duration::from_secs(2);
