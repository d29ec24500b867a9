//! The changes of a list.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use tokio::sync::watch;

use crate::{
    HostName,
    list::{AllowList, clock::now},
    set::SetChange,
};

/// The changes of a list, see [`AllowList::changes`].
///
/// What happened between two calls of [`next`](Self::next) is summed up, so that a slow reader loses
/// nothing and holds no memory.
#[derive(Debug)]
pub struct Changes {
    list: AllowList,
    published_changed: watch::Receiver<u64>,
    seen: BTreeMap<HostName, BTreeSet<IpAddr>>,
}

impl Changes {
    pub(super) fn new(list: AllowList, published_changed: watch::Receiver<u64>) -> Self {
        Self {
            seen: list.by_host(),
            list,
            published_changed,
        }
    }

    /// Waits until the set differs from when it was last told, and tells how, by host.
    ///
    /// Never ends when nothing changes any more. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Vec<SetChange> {
        loop {
            self.published_changed.mark_unchanged();
            let current = self.list.by_host();
            let changes = self.differences(&current);
            if !changes.is_empty() {
                self.seen = current;
                return changes;
            }
            // The list that is held keeps the sender alive.
            let _ = self.published_changed.changed().await;
        }
    }

    fn differences(&self, current: &BTreeMap<HostName, BTreeSet<IpAddr>>) -> Vec<SetChange> {
        let at = now();
        let none = BTreeSet::new();
        let hosts: BTreeSet<_> = self.seen.keys().chain(current.keys()).collect();
        let changes = hosts.into_iter().map(|host| {
            let before = self.seen.get(host).unwrap_or(&none);
            let after = current.get(host).unwrap_or(&none);
            SetChange {
                host: host.clone(),
                added: after.difference(before).copied().collect(),
                removed: before.difference(after).copied().collect(),
                at,
            }
        });
        changes
            .filter(|change| !change.added.is_empty() || !change.removed.is_empty())
            .collect()
    }
}
