//! State that the handles of a list share with its refresher.

use std::{
    sync::{Arc, PoisonError},
    time::Instant,
};

use tokio::sync::{Notify, watch};

use crate::{
    AllowSet,
    list::{
        clock::now,
        log::NoticeLog,
        on_demand::{OnDemand, OnDemandLimits},
        state_file::StateFile,
    },
    rate_limit::PeerRateLimit,
    set::Notice,
    sync::{ArcSwap, Mutex},
};

/// State that the handles of a list share with its refresher, with the protocol of its fields.
///
/// | field | written by | read by | wakes |
/// |---|---|---|---|
/// | `writer` | [`update`](Self::update), under its mutex | the same | |
/// | `published` | `update`, while it has `writer` | each verdict, without waiting; the refresher | |
/// | `published_changed` | `update`, after both; the refresher, when a wait may be over | the state writer, for the count | requests that wait, [`ready`](crate::AllowList::ready), [`Changes`](crate::Changes) |
/// | `on_demand` | requests and the refresher, see [`OnDemand`] | the same | |
/// | `wake` | requests through `on_demand`, `replace_hosts`, `replace_windows`, the drop of the last handle | the refresher | the refresher |
///
/// `update` is called by the refresher (a result, the end of a window, a sleep of the machine), by
/// `replace_hosts` and by `replace_windows`. No field is a flag that both sides write. The reference count of the handle shows that the
/// list was dropped. A change counter, which only grows, shows that the state file is out of date.
///
/// Four orders matter:
///
/// 1. A waiter subscribes to `published_changed` **before** it reads `published`. A set that is published
///    in between marks the subscription as changed.
/// 2. `update` stores `published` **before** it sends `published_changed`, so that a waiter which was woken
///    sees the set, and a state file that includes a count includes its changes.
/// 3. `replace_hosts` publishes, **then** calls [`OnDemand::hosts_replaced`], **then** wakes. If the first two
///    were swapped, a turn of the refresher between them would make the list quiet by the old set, and requests
///    from the new hosts would be judged at once. If the refresher were woken before the set is published, it
///    would plan by the old one and sleep.
/// 4. The reference count of the last handle falls **before** its drop wakes the refresher.
///
/// `wake` stores one permit if the refresher is busy. One is enough, since after each event the refresher
/// reads everything again.
pub(crate) struct Shared {
    /// The set that verdicts are made from.
    pub(crate) published: ArcSwap<AllowSet>,
    /// The set that is changed, and then published as a copy. A verdict never takes this lock.
    writer: Mutex<Writer>,
    /// Sent after each publication, with the number of address changes so far.
    pub(crate) published_changed: watch::Sender<u64>,
    /// Wakes the refresher.
    pub(crate) wake: Notify,
    pub(crate) on_demand: OnDemand,
    /// Limits the log of refusals.
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
            published_changed: watch::Sender::new(0),
            wake: Notify::new(),
            refusals: PeerRateLimit::new(now.into()),
            state_file: None,
        }
    }

    /// Changes the set, publishes it and logs what happened.
    pub(crate) fn update(&self, change: impl FnOnce(&mut AllowSet, Instant) -> Vec<Notice>) {
        let now = now();
        // A panic of another writer leaves a usable set: each change ends by building the index anew.
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        #[cfg(callback_source_simulation)]
        let before = writer.set.clone();
        let notices = change(&mut writer.set, now);
        self.published.store(Arc::new(writer.set.clone()));
        #[cfg(callback_source_simulation)]
        if crate::simulation::planted(crate::simulation::Fault::PublishedBeforeApplied) {
            self.published.store(Arc::new(before));
        }
        let Writer { set, log } = &mut *writer;
        log.report(&notices, set, now);
        drop(writer);
        let is_change = |notice: &Notice| matches!(notice, Notice::Changed(_));
        let has_changed = notices.iter().any(is_change);
        self.published_changed
            .send_modify(|changes| *changes += u64::from(has_changed));
    }

    /// The number of updates so far that changed addresses.
    pub(crate) fn address_changes(&self) -> u64 {
        *self.published_changed.borrow()
    }

    /// Wakes those who wait, without a new set.
    pub(crate) fn wake_waiters(&self) {
        self.published_changed.send_modify(|_| ());
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
