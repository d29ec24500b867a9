//! State that the handles of a list share with its refresher.

use std::{
    net::IpAddr,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Instant,
};

use tokio::sync::{Notify, watch};

use crate::{
    AllowSet, HostName, Rejection, Verdict,
    list::{
        clock::now,
        log::{self, NoticeLog},
        on_demand::{OnDemand, OnDemandLimits},
        refused::RefusedPeers,
        state_file::StateFile,
    },
    metrics::ListMetrics,
    rate_limit::PeerRateLimit,
    set::Notice,
    sync::{ArcSwap, AtomicBool, Mutex},
    vipps,
};

/// State that the handles of a list share with its refresher.
///
/// The table shows which code uses each field:
///
/// | field | written by | read by | wakes |
/// |---|---|---|---|
/// | `writer` | [`update`](Self::update), under its mutex | the same | |
/// | `published` | `update`, under the mutex of `writer` | each verdict, without waiting; the refresher | |
/// | `published_changed` | `update`, after `writer` and `published`; the refresher, when a wait may be over | the state writer, for the number of changes | requests that wait, [`ready`](crate::AllowList::ready), [`Changes`](crate::Changes) |
/// | `on_demand` | requests and the refresher, see [`OnDemand`] | the same | |
/// | `wake` | requests through `on_demand`, `replace_hosts`, `replace_windows`, the drop of the last handle | the refresher | the refresher |
/// | `refusals`, `metrics` | requests; the refresher, for the metrics | the same | |
/// | `refused` | requests that are refused with 403; `update`, after `published` | the same; [`health`](crate::AllowList::health) | |
/// | `watch`, `state_file` | the builder only | `replace_hosts`; the refresher, for the state file | |
/// | `lost_refresher` | the drop of the refresher; the refusal that logs it | refusals | |
///
/// `update` is called by the refresher (after a lookup, at the end of a window, after a sleep of the machine), and by
/// `replace_hosts`, `replace_windows` and `replace_networks`. Every atomic is `SeqCst`, because `shuttle` models no
/// weaker ordering. Two conditions are detected without a flag. The reference count of the handle shows that the list
/// was dropped. A change counter, which only grows, shows that the state file is out of date.
///
/// The order of operations matters in four places:
///
/// 1. A waiter subscribes to `published_changed` **before** it reads `published`. A set that is published between these
///    two steps marks the subscription as changed.
/// 2. `update` stores `published` **before** it sends `published_changed`, so that a woken waiter reads the new set.
///    For the same reason, a state file that is written because of a change always includes that change.
/// 3. `replace_hosts` publishes the set, **then** calls [`OnDemand::hosts_replaced`], **then** wakes the refresher. If
///    the first two steps were swapped, a turn of the refresher between them could mark the list as quiet, based on the
///    old set. Requests from the new hosts would then be judged at once. If the refresher were woken before the set is
///    published, the refresher would plan for the old set and then sleep.
/// 4. The reference count of the handle reaches zero **before** the drop of the last handle wakes the refresher.
///
/// `wake` stores one permit if the refresher is busy. One permit is enough, since the refresher reads all of its input
/// again after each event.
pub(crate) struct Shared {
    /// The published set, on which verdicts are based.
    pub(crate) published: ArcSwap<AllowSet>,
    /// The set that is changed, and then published as a copy. A verdict never locks this mutex.
    writer: Mutex<Writer>,
    /// The number of updates so far that changed addresses. This number is sent after each publication.
    pub(crate) published_changed: watch::Sender<u64>,
    /// Wakes the refresher.
    pub(crate) wake: Notify,
    pub(crate) on_demand: OnDemand,
    /// Rate limit for the log lines about refusals.
    pub(crate) refusals: PeerRateLimit,
    /// Refused peers that may be listed later.
    pub(crate) refused: RefusedPeers,
    pub(crate) metrics: ListMetrics,
    /// Hosts that `AllowListBuilder::watch` added. Each of these hosts is watched unless it is admitted.
    pub(super) watch: Vec<HostName>,
    /// True once the refresher has ended, until this has been logged.
    lost_refresher: AtomicBool,
    /// The state file, which the refresher writes.
    pub(super) state_file: Option<Arc<StateFile>>,
}

impl Shared {
    /// Creates the state of a list. `name` identifies the list in the metrics.
    pub(super) fn new(set: AllowSet, on_demand: OnDemandLimits, name: &str, now: Instant) -> Self {
        let refused = RefusedPeers::new(set.rules().linger, now);
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
            refused,
            metrics: ListMetrics::new(name, now),
            watch: Vec::new(),
            lost_refresher: AtomicBool::new(false),
            state_file: None,
        }
    }

    /// Changes the set, publishes it, and logs the resulting notices.
    pub(crate) fn update(&self, change: impl FnOnce(&mut AllowSet, Instant) -> Vec<Notice>) {
        let now = now();
        // After a panic of another writer, the set is still usable, because each change ends with a rebuild of the
        // index.
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
        self.report_refused(&notices, now);
        let is_change = |notice: &&Notice| matches!(notice, Notice::Changed(_));
        let changes = notices.iter().filter(is_change).count();
        (0..changes).for_each(|_| self.metrics.changed());
        self.metrics.set(|| self.published.load().gauges(now), now);
        self.published_changed
            .send_modify(|updates| *updates += u64::from(changes > 0));
    }

    /// Records a refusal with 403.
    ///
    /// A set that was published after the verdict may list the peer. Either the [`update`](Self::update) that publishes
    /// this set finds the refusal, or this method reads this set.
    pub(crate) fn refused(&self, rejection: &Rejection, now: Instant) {
        let Some(peer) = rejection.peer() else {
            return;
        };
        self.refused.add(peer, now);
        match self.published.load().verdict(peer, now) {
            Verdict::Allow(allowed) => {
                if let Some(host) = allowed.host() {
                    self.refused_then_listed(peer, host, now);
                }
            }
            Verdict::Reject(later) if later.kind() != rejection.kind() => {
                if let Some(explanation) = later.explanation() {
                    log::refused_by_watching_list(&explanation);
                }
            }
            Verdict::Reject(_) => {}
        }
    }

    /// Logs refused peers that are now listed, or that are now known to be servers of watched hosts.
    ///
    /// This method must be called after the set has been published: see [`refused`](Self::refused).
    fn report_refused(&self, notices: &[Notice], now: Instant) {
        for notice in notices {
            match notice {
                Notice::Changed(change) => {
                    for address in &change.added {
                        self.refused_then_listed(*address, &change.host, now);
                    }
                }
                Notice::WatchedChanged(change) => {
                    let set = self.published.load();
                    let refused = change.added.iter();
                    let refused =
                        refused.filter(|address| self.refused.find(**address, now).is_some());
                    for address in refused {
                        if let Some(server) = set.watched_server(*address, now) {
                            log::refused_by_watching_list(&server.explain(*address));
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn refused_then_listed(&self, address: IpAddr, host: &HostName, now: Instant) {
        if let Some(refusals) = self.refused.take(address, host, now) {
            log::refused_then_listed(address, host, refusals);
            self.metrics.refused_then_listed();
        }
    }

    /// Records that the refresher has ended.
    pub(super) fn refresher_ended(&self) {
        self.lost_refresher.store(true, Ordering::SeqCst);
    }

    /// Logs once that the refresher has ended while the list is still in use.
    ///
    /// This method is called at a refusal, and not when the refresher ends. A runtime that shuts down drops its tasks
    /// in any order, so the handles of a service often outlive the refresher by a moment.
    pub(crate) fn report_lost_refresher(&self) {
        if self.lost_refresher.load(Ordering::SeqCst)
            && self.lost_refresher.swap(false, Ordering::SeqCst)
        {
            log::lost_refresher();
        }
    }

    /// Returns the number of updates so far that changed addresses.
    pub(crate) fn address_changes(&self) -> u64 {
        *self.published_changed.borrow()
    }

    /// Wakes the requests that wait, without publishing a new snapshot.
    pub(crate) fn wake_waiters(&self) {
        self.published_changed.send_modify(|_| ());
    }
}

/// Returns the hosts that a list watches: the given hosts, and the hosts of the provider's other environments.
pub(super) fn watched_hosts(given: &[HostName], hosts: &[HostName]) -> Vec<HostName> {
    let others = vipps::hosts_of_other_environments(hosts);
    given.iter().cloned().chain(others).collect()
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

/// Default name of a list in the metrics.
pub(super) const UNNAMED: &str = "default";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Answer, RejectionKind};

    #[test]
    fn a_refusal_that_is_remembered_after_its_answer_was_published_is_noticed() {
        let now = now();
        let host: HostName = "h.test".parse().unwrap();
        let set = AllowSet::new(Default::default(), [host.clone()], &[], now).unwrap();
        let (question, _) = set.questions().next().unwrap();
        let shared = Shared::new(set, OnDemandLimits::default(), "refused", now);
        let address: IpAddr = "20.0.0.1".parse().unwrap();
        let rejection = Rejection::new(RejectionKind::NotListed, Some(address));
        let answer = Answer::new([address], Duration::from_secs(60));
        shared.update(|set, now| set.apply(&question, Ok(answer), now));
        assert_eq!(shared.refused.then_listed(&host), 0);
        shared.refused(&rejection, now);
        assert_eq!(shared.refused.then_listed(&host), 1);
    }

    #[test]
    fn only_updates_that_change_addresses_are_counted() {
        let now = now();
        let host: HostName = "h.test".parse().unwrap();
        let set = AllowSet::new(Default::default(), [host], &[], now).unwrap();
        let (question, _) = set.questions().next().unwrap();
        let shared = Shared::new(set, OnDemandLimits::default(), "changes", now);
        let changes = [1, 1, 2, 2].map(|last| {
            let answer = Answer::new([[20, 0, 0, last].into()], Duration::from_secs(60));
            shared.update(|set, now| set.apply(&question, Ok(answer), now));
            shared.address_changes()
        });
        assert_eq!(changes, [1, 1, 2, 2]);
    }
}
