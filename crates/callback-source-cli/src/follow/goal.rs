//! Content that every target should have.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    time::{Duration, Instant},
};

use callback_source::{AllowSet, Family};
use ipnet::IpNet;

use crate::args::plain;

/// Admitted addresses and networks, each with the end of its window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Goal {
    /// Members, each with the end of its window; `None` for a static network, which never expires. Addresses within a
    /// static network are left out: the network admits them, and the intervals of an nftables set must not overlap.
    members: BTreeMap<IpNet, Option<Instant>>,
    hosts: Vec<String>,
    /// The longer of the stale window and the linger window.
    longest_window: Duration,
    /// For each family, `true` if every host is resolved. The order is that of [`Family::ALL`].
    resolved: [bool; 2],
    attempted: bool,
}

/// Next action of a target for a goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Some question has had no result yet, and some host is unresolved.
    Wait,
    /// No address or network is admitted, and the target must not be emptied.
    Keep,
    Sync,
}

impl Goal {
    /// Computes the goal from a set at a given time.
    pub(crate) fn new(set: &AllowSet, now: Instant) -> Self {
        let networks: Vec<_> = set.networks().collect();
        let windows = set.windows(now).into_iter();
        let mut members: BTreeMap<_, _> = windows
            .filter(|(address, _)| !networks.iter().any(|network| network.contains(address)))
            .map(|(address, until)| (IpNet::from(address), Some(until)))
            .collect();
        members.extend(networks.into_iter().map(|network| (network, None)));
        Self {
            members,
            hosts: set.hosts().map(ToString::to_string).collect(),
            longest_window: set.rules().stale_for.max(set.rules().linger),
            resolved: Family::ALL.map(|family| set.is_resolved(family, now)),
            attempted: set.is_attempted(),
        }
    }

    #[cfg(test)]
    pub(crate) fn with_members(members: BTreeMap<IpNet, Option<Instant>>, resolved: bool) -> Self {
        Self {
            members,
            hosts: vec!["a.test".to_owned()],
            longest_window: Duration::from_secs(24 * 60 * 60),
            resolved: [resolved; 2],
            attempted: true,
        }
    }

    /// Returns the next action. An empty set is written only with `allow_empty`, and only after every host has been
    /// looked up or restored from the state file.
    pub(crate) fn step(&self, allow_empty: bool) -> Step {
        match self.attempted || self.is_resolved() {
            false => Step::Wait,
            true if self.members.is_empty() && !allow_empty => Step::Keep,
            true => Step::Sync,
        }
    }

    /// Returns whether every host is resolved for both families.
    pub(crate) fn is_resolved(&self) -> bool {
        self.resolved == [true; 2]
    }

    pub(crate) fn is_resolved_for(&self, network: IpNet) -> bool {
        self.resolved[Family::from_ip(network.addr()) as usize]
    }

    pub(crate) fn members(&self) -> &BTreeMap<IpNet, Option<Instant>> {
        &self.members
    }

    pub(crate) fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// Returns the earliest time at which a window ends; `None` if no member has a window.
    pub(crate) fn good_until(&self) -> Option<Instant> {
        self.members.values().flatten().min().copied()
    }

    /// Returns whether a member contains a network.
    fn covers(&self, network: IpNet) -> bool {
        self.members.keys().any(|member| member.contains(&network))
    }
}

/// Members that a target had when this process first read the target.
///
/// While a host is unresolved, such a member may be an address of the host. If the member were removed, a genuine
/// callback could be refused. Addresses that this process itself has admitted are not included, because the ends of
/// their windows are known.
///
/// Some hosts never resolve. The members are therefore kept for the longest window at most.
#[derive(Clone, Debug, Default)]
pub(crate) struct Carried {
    members: Option<BTreeSet<IpNet>>,
    /// Time until which the members are kept. `None` before the target is first read, or if the window never ends.
    until: Option<Instant>,
}

impl Carried {
    /// Returns the networks at the target that are kept in addition to the goal.
    ///
    /// `noted` is the value of `until` that an earlier process noted at the target. Without this value, each restart
    /// would keep the networks for another window.
    pub(crate) fn keep(
        &mut self,
        found: &BTreeSet<IpNet>,
        goal: &Goal,
        now: Instant,
        noted: Option<Instant>,
    ) -> BTreeSet<IpNet> {
        if self.members.is_none() {
            let end = now.checked_add(goal.longest_window);
            self.until = end.into_iter().chain(noted).min();
        }
        // A network of several addresses comes from the configuration. It cannot be an address of a host.
        let addresses = || found.iter().filter(|network| is_address(**network));
        let carried = self
            .members
            .get_or_insert_with(|| addresses().copied().collect());
        let is_over = self.until.is_some_and(|until| until <= now);
        carried.retain(|network| {
            !is_over
                && found.contains(network)
                && !goal.covers(*network)
                && !goal.is_resolved_for(*network)
        });
        carried.clone()
    }

    /// Time until which the networks are kept.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.until
    }
}

fn is_address(network: IpNet) -> bool {
    network.prefix_len() == network.max_prefix_len()
}

/// Timeout in whole seconds for the remaining time of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeOut {
    pub(crate) seconds: u64,
    left: Option<Duration>,
}

impl TimeOut {
    /// Returns the timeout for a window; `None` if the window has ended.
    ///
    /// The timeout is rounded up and at least 1 s: in nftables, zero means forever. A static network gets a timeout of
    /// a day, which is renewed after half a day.
    pub(crate) fn new(until: Option<Instant>, now: Instant) -> Option<Self> {
        let Some(until) = until else {
            return Some(Self {
                seconds: STATIC_SECONDS,
                left: None,
            });
        };
        let left = until.saturating_duration_since(now);
        let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        match seconds {
            0 => None,
            1..=MAX_SECONDS => Some(Self {
                seconds,
                left: Some(left),
            }),
            _ => Some(Self {
                seconds: MAX_SECONDS,
                left: None,
            }),
        }
    }

    /// Returns whether an element must be renewed. `expires` is the number of seconds until the end of its timeout,
    /// rounded down.
    ///
    /// Since a timeout is rounded up, a new element may end later than its window, by at most a second. Only a new
    /// element with a timeout of [`MAX_SECONDS`] can end before its window. An element is not always renewed if its
    /// window is later extended by less than a second.
    pub(crate) fn differs_from(self, expires: u64) -> bool {
        match self.left {
            Some(left) => {
                let earliest = Duration::from_secs(expires);
                let latest = Duration::from_secs(expires.saturating_add(1));
                latest < left || left + Duration::from_secs(1) < earliest
            }
            None => expires < self.seconds / 2 || self.seconds < expires,
        }
    }
}

/// Network for a log line or a list. It is displayed without the prefix length if it is a single address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Plain(pub(crate) IpNet);

impl fmt::Display for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&plain(self.0))
    }
}

impl fmt::Debug for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Parses an address or a network.
pub(crate) fn network(text: &str) -> Option<IpNet> {
    let network = text.parse::<IpNet>().map(|network| network.trunc());
    network
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

const STATIC_SECONDS: u64 = 24 * 60 * 60;

/// Maximum timeout in seconds (2^32 ms), since some kernels store a timeout as a 32-bit number of milliseconds.
pub(crate) const MAX_SECONDS: u64 = (u32::MAX / 1000) as u64;

#[cfg(test)]
mod tests {
    use callback_source::{Answer, HostName, Question, ResolveError, ResolveErrorKind, set::Rules};
    use proptest::prelude::*;

    use super::*;
    use crate::follow::testing::{goal, net, nets, now};

    const SECOND: Duration = Duration::from_secs(1);

    /// Returns a set of two hosts, the questions of the first host, and the questions of the second host.
    fn set(networks: &[IpNet], now: Instant) -> (AllowSet, [[Question; 2]; 2]) {
        let hosts = ["a.test", "b.test"].map(|name| name.parse::<HostName>().unwrap());
        let set = AllowSet::new(Rules::default(), hosts.clone(), networks, now).unwrap();
        let questions = hosts.map(|host| {
            Family::ALL.map(|family| Question {
                host: host.clone(),
                family,
            })
        });
        (set, questions)
    }

    fn answer(address: &str) -> Result<Answer, ResolveError> {
        Ok(Answer::new([address.parse().unwrap()], 60 * SECOND))
    }

    fn failed() -> Result<Answer, ResolveError> {
        Err(ResolveError::new(ResolveErrorKind::ServFail))
    }

    #[test]
    fn a_member_ends_with_the_last_window_that_admits_its_address() {
        let start = now();
        let (mut set, [[a, _], _]) = set(&[], start);
        set.apply(&a, answer("20.0.0.1"), start);
        let stale_until = start + 60 * SECOND + Rules::default().stale_for;
        let members = |set: &AllowSet, now| Goal::new(set, now).members;
        assert_eq!(
            members(&set, start),
            [(net("20.0.0.1"), Some(stale_until))].into()
        );
        // The address leaves the answer, so its window becomes shorter.
        let later = start + 61 * SECOND;
        set.apply(&a, answer("20.0.0.2"), later);
        let lingers_until = later + Rules::default().linger;
        let found = members(&set, later);
        assert_eq!(found[&net("20.0.0.1")], Some(lingers_until));
        assert_eq!(Goal::new(&set, later).good_until(), Some(lingers_until));
        let found = members(&set, lingers_until);
        assert_eq!(found.into_keys().collect::<Vec<_>>(), [net("20.0.0.2")]);
    }

    #[test]
    fn an_address_within_a_static_network_is_left_out() {
        let start = now();
        let (mut set, [[a, _], [b, _]]) = set(&[net("20.0.0.0/24")], start);
        set.apply(&a, answer("20.0.0.1"), start);
        set.apply(&b, answer("20.0.1.1"), start);
        let goal = Goal::new(&set, start);
        let found: Vec<_> = goal.members().keys().copied().collect();
        assert_eq!(found, [net("20.0.0.0/24"), net("20.0.1.1")]);
        assert_eq!(goal.members()[&net("20.0.0.0/24")], None);
    }

    #[test]
    fn nothing_is_written_before_every_host_was_asked_and_an_empty_set_only_on_demand() {
        let start = now();
        let (mut set, [a, b]) = set(&[], start);
        let step = |set: &AllowSet, allow| Goal::new(set, start).step(allow);
        set.apply(&a[0], answer("20.0.0.1"), start);
        assert_eq!(step(&set, true), Step::Wait);
        for question in [&a[1], &b[0], &b[1]] {
            set.apply(question, failed(), start);
        }
        assert_eq!(step(&set, false), Step::Sync);

        let (mut set, [a, b]) = self::set(&[], start);
        for question in a.iter().chain(&b) {
            set.apply(question, failed(), start);
        }
        assert_eq!(step(&set, false), Step::Keep);
        assert_eq!(step(&set, true), Step::Sync);
    }

    #[test]
    fn an_address_from_before_is_kept_while_its_family_is_undecided() {
        let start = now();
        let (mut set, [a, b]) = set(&[], start);
        set.apply(&a[0], answer("20.0.0.1"), start);
        let mut carried = Carried::default();
        // `20.1.0.0/24` is not kept, because a network can only come from an earlier configuration.
        let found = nets(["20.0.0.1", "20.0.0.9", "2001:db8::9", "20.1.0.0/24"]);
        let kept = carried.keep(&found, &Goal::new(&set, start), start, None);
        assert_eq!(kept, nets(["20.0.0.9", "2001:db8::9"]));
        // Another process removes one of the kept addresses.
        let found = nets(["20.0.0.9"]);
        let kept = carried.keep(&found, &Goal::new(&set, start), start, None);
        assert_eq!(kept, nets(["20.0.0.9"]));

        set.apply(&b[0], answer("20.0.0.2"), start);
        let goal = Goal::new(&set, start);
        assert!(goal.is_resolved_for(net("20.0.0.9")) && !goal.is_resolved());
        assert!(carried.keep(&found, &goal, start, None).is_empty());
    }

    #[test]
    fn an_address_from_before_is_kept_for_the_longest_window_although_a_host_never_resolves() {
        let start = now();
        let undecided = || goal(&[], false, start);
        let window = undecided().longest_window;
        let found = nets(["20.0.0.9"]);
        let kept_at = |carried: &mut Carried, passed, noted| {
            !carried
                .keep(&found, &undecided(), start + passed, noted)
                .is_empty()
        };
        let mut carried = Carried::default();
        assert!(kept_at(&mut carried, Duration::ZERO, None));
        assert!(kept_at(&mut carried, window - SECOND, None));
        assert!(!kept_at(&mut carried, window, None));

        // The next process does not begin another window.
        let noted = Some(start + window);
        let mut carried = Carried::default();
        assert!(kept_at(&mut carried, window / 2, noted));
        assert!(!kept_at(&mut carried, window, noted));
        // A noted end after the end of a new window is ignored.
        let mut carried = Carried::default();
        assert!(kept_at(
            &mut carried,
            Duration::ZERO,
            Some(start + 2 * window)
        ));
        assert!(!kept_at(&mut carried, window, None));
    }

    #[test]
    fn an_address_that_this_process_admitted_is_not_kept_when_its_window_ends() {
        let start = now();
        let undecided = |members: &[(&str, u64)]| goal(members, false, start);
        let mut carried = Carried::default();
        let found = nets(["20.0.0.9"]);
        let keep =
            |carried: &mut Carried, found: &_, goal: &_| carried.keep(found, goal, start, None);
        keep(&mut carried, &found, &undecided(&[("20.0.0.1", 1_000)]));
        // This process writes the address to the target. Then the address leaves the goal.
        let found = nets(["20.0.0.1", "20.0.0.9"]);
        assert_eq!(
            keep(&mut carried, &found, &undecided(&[])),
            nets(["20.0.0.9"]),
            "an address whose window is over was kept"
        );
        // The same applies to an address that was at the target before and later joined the goal.
        keep(&mut carried, &found, &undecided(&[("20.0.0.9", 1_000)]));
        assert!(keep(&mut carried, &found, &undecided(&[])).is_empty());
    }

    proptest! {
        /// Tests two traps. A timeout of zero or with a fraction would create a permanent element. A rounded-up timeout
        /// must not exceed its window by more than a second.
        #[test]
        fn a_time_out_is_never_zero_and_never_longer_than_the_window(
            left in prop_oneof![0..=1_u64 << 32, 0..5_000_u64, (1_u64 << 32) - 2_000..=1 << 32],
            nanos in 0..1_000_000_u64,
        ) {
            let now = now();
            let left = Duration::from_millis(left) + Duration::from_nanos(nanos);
            match TimeOut::new(Some(now + left), now) {
                None => prop_assert!(left.is_zero()),
                Some(time_out) => {
                    let seconds = Duration::from_secs(time_out.seconds);
                    prop_assert!(time_out.seconds >= 1);
                    prop_assert!(seconds < left + SECOND);
                    prop_assert!(left <= seconds || time_out.seconds == MAX_SECONDS);
                    // These are the values that the kernel shows right after the write.
                    for expires in [time_out.seconds, time_out.seconds - 1] {
                        prop_assert!(!time_out.differs_from(expires), "{time_out:?} {expires}");
                    }
                }
            }
        }

        /// An element that expires at most 1 s after its window is left unchanged. An element that expires more than 1
        /// s before or more than 2 s after its window is renewed.
        #[test]
        fn an_element_that_ends_at_another_time_than_its_window_is_renewed(
            left in 1..100_000_u64,
            off in -5_000..5_000_i64,
        ) {
            let now = now();
            let time_out = TimeOut::new(Some(now + Duration::from_millis(left)), now).unwrap();
            let Some(ends) = left.checked_add_signed(off) else {
                return Ok(());
            };
            // The tolerance is a second on each side, since the kernel shows whole seconds.
            let differs = time_out.differs_from(ends / 1000);
            if (0..1_000).contains(&off) {
                prop_assert!(!differs);
            }
            if !(-1_000..=2_000).contains(&off) {
                prop_assert!(differs);
            }
        }
    }

    #[test]
    fn a_static_network_is_renewed_after_half_a_day_and_never_permanent() {
        let time_out = TimeOut::new(None, now()).unwrap();
        assert_eq!(time_out.seconds, 86_400);
        assert!(!time_out.differs_from(86_400) && !time_out.differs_from(43_200));
        assert!(time_out.differs_from(43_199) && time_out.differs_from(86_401));
    }
}
