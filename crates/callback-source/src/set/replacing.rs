//! Replacement of hosts and static networks while the set is in use.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use ipnet::IpNet;

use super::{AllowSet, NetworkError, Notice, host::Host, networks::Networks};
use crate::HostName;

impl AllowSet {
    /// Replaces the hosts. Hosts that stay keep their answers. The addresses of removed hosts are refused at once,
    /// unless they belong to another host or to a static network. A host that is added is no longer watched. See
    /// [`AllowList::replace_hosts`](crate::AllowList::replace_hosts) for an example.
    pub fn replace_hosts(
        &mut self,
        hosts: impl IntoIterator<Item = HostName>,
        now: Instant,
    ) -> Vec<Notice> {
        let mut notices = Vec::new();
        let before = std::mem::take(&mut self.hosts).into_iter();
        let mut before: BTreeMap<_, _> = before.map(|host| (host.name.clone(), host)).collect();
        let mut names = BTreeSet::new();
        for name in hosts {
            if names.insert(name.clone()) {
                let kept = before.remove(&name);
                self.hosts
                    .push(kept.unwrap_or_else(|| Host::new(name, now)));
            }
        }
        for mut removed in before.into_values() {
            notices.extend(removed.report(BTreeSet::new(), now));
        }
        #[cfg(callback_source_simulation)]
        if crate::simulation::planted(crate::simulation::Fault::HostsKept) {
            return notices;
        }
        let watched: Vec<_> = self.watched().cloned().collect();
        self.watch(watched, now);
        self.settle(now, &mut notices);
        notices
    }

    /// Replaces the static networks. Peers in removed networks are refused at once, unless their addresses belong to a
    /// host.
    ///
    /// # Errors
    ///
    /// Returns an error if the networks cover a whole address family, as `0.0.0.0/0` does. The set then remains
    /// unchanged.
    ///
    /// ```
    /// use std::time::Instant;
    /// use callback_source::{AllowSet, set::Rules};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let now = Instant::now();
    /// let mut set = AllowSet::new(Rules::default(), [], &["192.0.2.0/24".parse()?], now)?;
    /// set.replace_networks(&["198.51.100.0/24".parse()?], now)?;
    /// assert!(set.verdict("198.51.100.7".parse()?, now).is_allowed());
    /// assert!(!set.verdict("192.0.2.7".parse()?, now).is_allowed());
    /// assert!(set.replace_networks(&["::/0".parse()?], now).is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn replace_networks(
        &mut self,
        networks: &[IpNet],
        now: Instant,
    ) -> Result<Vec<Notice>, NetworkError> {
        self.networks = Networks::new(networks)?;
        self.networks_since = now;
        let mut notices = Vec::new();
        self.settle(now, &mut notices);
        Ok(notices)
    }
}
