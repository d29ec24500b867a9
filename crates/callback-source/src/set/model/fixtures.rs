//! Hosts and peers of the schedules.

use std::{iter, net::IpAddr, sync::LazyLock, time::Duration};

use crate::{Family, HostName};

/// Three hosts in one zone, and two hosts that have only a public suffix in common.
pub(super) static HOSTS: LazyLock<[HostName; 5]> = LazyLock::new(|| {
    [
        "a.psp.example",
        "b.psp.example",
        "d.co.uk",
        "c.psp.example",
        "e.co.uk",
    ]
    .map(|name| name.parse().expect("a host name"))
});

pub(super) static POOLS: LazyLock<[[IpAddr; 6]; 2]> = LazyLock::new(|| {
    [
        [
            "8.8.4.1", "10.0.0.1", "8.8.4.2", "8.8.4.3", "8.8.4.4", "8.8.4.6",
        ],
        [
            "2a00::1", "fd00::1", "2a00::2", "2a00::3", "2a00::4", "2a00::5",
        ],
    ]
    .map(|addresses| addresses.map(|address| address.parse().expect("an address")))
});

/// Peers whose verdicts are compared: the pools, an unlisted peer of each family, a peer that only the static network
/// contains, and `MAPPED`.
pub(super) static EVERYBODY: LazyLock<Vec<IpAddr>> = LazyLock::new(|| {
    let others = ["9.9.9.9", "2a00::9", "8.8.4.5"];
    let others = others.map(|address| address.parse().expect("an address"));
    let mapped = iter::once(*MAPPED);
    POOLS
        .iter()
        .flatten()
        .copied()
        .chain(others)
        .chain(mapped)
        .collect()
});

/// First IPv4 address of the pool, as an IPv4-mapped IPv6 address.
pub(super) static MAPPED: LazyLock<IpAddr> =
    LazyLock::new(|| "::ffff:8.8.4.1".parse().expect("an address"));

/// A peer of each family that no answer and no network contains.
pub(super) static UNLISTED: LazyLock<[IpAddr; 2]> =
    LazyLock::new(|| ["9.9.9.9", "2a00::9"].map(|address| address.parse().expect("an address")));

pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Returns the addresses that may be in an answer of a family. The second address is private.
pub(super) fn pool(family: Family) -> [IpAddr; 6] {
    POOLS[family as usize]
}

pub(super) fn is_private(address: IpAddr) -> bool {
    Family::ALL.iter().any(|family| pool(*family)[1] == address)
}

pub(super) fn names(hosts: &[usize]) -> Vec<HostName> {
    hosts.iter().map(|at| HOSTS[*at].clone()).collect()
}

/// Returns the zone of a name of [`HOSTS`], or `None` if the parent domain is a public suffix.
pub(super) fn zone(name: &HostName) -> Option<&str> {
    let name = name.as_str();
    name.contains(".psp.").then_some("psp")
}
