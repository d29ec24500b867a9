//! What handles and refresher share.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use arc_swap::ArcSwap;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use crate::{
    AllowSet,
    list::{
        log::NoticeLog,
        on_demand::{OnDemand, OnDemandLimits},
        state_file::StateFile,
    },
    rate_limit::PeerRateLimit,
    set::Notice,
};

/// What handles and refresher share.
pub(crate) struct Shared {
    /// What requests read.
    pub(crate) published: ArcSwap<AllowSet>,
    /// What writers change, and publish a copy of. Never locked on the path of a request.
    writer: Mutex<Writer>,
    /// Told after each publication.
    pub(crate) published_changed: watch::Sender<()>,
    /// Tells the refresher to look around.
    pub(crate) wake: Notify,
    /// Whether the last handle is gone.
    pub(crate) handles_dropped: AtomicBool,
    /// Whether addresses changed since the refresher last looked.
    pub(crate) dirty: AtomicBool,
    pub(crate) on_demand: OnDemand,
    pub(crate) refusals: PeerRateLimit,
    /// The file that the refresher writes.
    pub(super) state_file: Option<Arc<StateFile>>,
}

impl Shared {
    pub(super) fn new(set: AllowSet, on_demand: OnDemandLimits, now: Instant) -> Self {
        Self {
            on_demand: OnDemand::new(on_demand, now),
            published: ArcSwap::from_pointee(set.clone()),
            writer: Mutex::new(Writer {
                set,
                log: NoticeLog::default(),
            }),
            dirty: AtomicBool::new(false),
            published_changed: watch::Sender::new(()),
            wake: Notify::new(),
            handles_dropped: AtomicBool::new(false),
            refusals: PeerRateLimit::new(now),
            state_file: None,
        }
    }

    /// Changes the set, publishes it and reports what happened.
    pub(crate) fn update(&self, change: impl FnOnce(&mut AllowSet, Instant) -> Vec<Notice>) {
        let now = Instant::now();
        // A panic of another writer leaves a set that is whole enough: each change ends by building
        // the index anew.
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        #[cfg(callback_source_simulation)]
        let before = writer.set.clone();
        let notices = change(&mut writer.set, now);
        self.published.store(Arc::new(writer.set.clone()));
        #[cfg(callback_source_simulation)]
        if crate::simulation::planted(crate::simulation::Fault::PublishedBeforeApplied) {
            self.published.store(Arc::new(before));
        }
        if notices
            .iter()
            .any(|notice| matches!(notice, Notice::Changed(_)))
        {
            self.dirty.store(true, Ordering::Release);
        }
        let Writer { set, log } = &mut *writer;
        log.report(&notices, set, now);
        drop(writer);
        self.published_changed.send_replace(());
    }
}

struct Writer {
    set: AllowSet,
    log: NoticeLog,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("published", &self.published)
            .finish_non_exhaustive()
    }
}
