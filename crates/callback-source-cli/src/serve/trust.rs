//! The trusted proxies, which a reload replaces.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use callback_source::verify::TrustedProxies;

/// Handle to the trusted proxies; clones share them.
#[derive(Clone, Debug)]
pub(super) struct Trust(Arc<ArcSwap<TrustedProxies>>);

impl Trust {
    pub(super) fn new(proxies: TrustedProxies) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(proxies)))
    }

    pub(super) fn replace(&self, proxies: TrustedProxies) {
        self.0.store(Arc::new(proxies));
    }

    pub(super) fn proxies(&self) -> Guard<Arc<TrustedProxies>> {
        self.0.load()
    }
}
