//! Goals for tests.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use ipnet::IpNet;

use super::goal::{Goal, network};

pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

pub(super) fn net(text: &str) -> IpNet {
    network(text).unwrap()
}

pub(super) fn nets<'a>(texts: impl IntoIterator<Item = &'a str>) -> BTreeSet<IpNet> {
    texts.into_iter().map(net).collect()
}

/// Returns a goal with these members, each with the remaining time of its window in milliseconds.
pub(super) fn goal(members: &[(&str, u64)], resolved: bool, now: Instant) -> Goal {
    let members = members.iter().map(|(text, left)| {
        let until = now + Duration::from_millis(*left);
        (net(text), Some(until))
    });
    Goal::with_members(members.collect(), resolved)
}
