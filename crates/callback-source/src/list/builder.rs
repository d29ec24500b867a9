//! What a list is made of.

use std::{path::PathBuf, sync::Arc, time::Duration};

use ipnet::IpNet;
use tracing::warn;

use crate::{
    AllowSet, Family, HostName, LOG_TARGET, NetworkError, Resolve,
    list::{
        AllowList, Refresher,
        answer_cache::AnswerCache,
        clock::{SleepClock, now},
        on_demand::OnDemandLimits,
        schedule::Schedule,
        shared::Shared,
        state_file::StateFile,
    },
    set::{Rules, networks::Cover},
    vipps,
};

/// Describes an [`AllowList`].
///
/// ```
/// # #[cfg(feature = "hickory")]
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use callback_source::{AllowList, HickoryResolver, vipps::Environment};
///
/// let list = AllowList::builder()
///     .environment(Environment::Production)
///     .host("out.adyen.com".parse()?)
///     .net("212.93.32.0/19".parse()?)?
///     .ttl_bounds(Duration::from_secs(1), Duration::from_secs(600))?
///     .linger(Duration::from_secs(1800))
///     .spawn(HickoryResolver::from_system_conf()?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct AllowListBuilder {
    rules: Rules,
    hosts: Vec<HostName>,
    networks: Vec<IpNet>,
    cover: Cover,
    state_file: Option<PathBuf>,
    restore_only: bool,
    on_demand: OnDemandLimits,
}

impl AllowListBuilder {
    /// Adds the callback servers of an environment, for production those for disaster recovery
    /// included. Environments add up.
    pub fn environment(self, environment: vipps::Environment) -> Self {
        self.hosts(environment.hosts())
    }

    /// Adds a host.
    pub fn host(self, host: HostName) -> Self {
        self.hosts([host])
    }

    /// Adds hosts.
    pub fn hosts(mut self, hosts: impl IntoIterator<Item = HostName>) -> Self {
        self.hosts.extend(hosts);
        self
    }

    /// Adds a static network, which is admitted whatever DNS says.
    ///
    /// # Errors
    ///
    /// A network that is, or with those added before makes up, a whole address family.
    pub fn net(self, network: IpNet) -> Result<Self, NetworkError> {
        self.nets([network])
    }

    /// Adds static networks, which are admitted whatever DNS says.
    ///
    /// # Errors
    ///
    /// Networks that make up, alone or with those added before, a whole address family.
    pub fn nets(mut self, networks: impl IntoIterator<Item = IpNet>) -> Result<Self, NetworkError> {
        for network in networks {
            self.cover.add(network)?;
            self.networks.push(network);
        }
        Ok(self)
    }

    /// Sets the bounds that the TTL of an answer is clamped to. Default 5 s to 1 h.
    ///
    /// The least TTL is also the floor: no question is asked more often.
    ///
    /// # Errors
    ///
    /// A least TTL below 1 s, or above the greatest.
    pub fn ttl_bounds(mut self, least: Duration, most: Duration) -> Result<Self, TtlBoundsError> {
        if least < MIN_FLOOR || most < least {
            return Err(TtlBoundsError { least, most });
        }
        self.rules.min_ttl = least;
        self.rules.max_ttl = most;
        Ok(self)
    }

    /// Sets how long an address stays admitted after it left the answer, at least until the answer
    /// that omits it has been refreshed; zero: not at all. Default 1 h.
    ///
    /// A zone that shows another part of its addresses in each answer needs a window of as many TTLs
    /// as it takes for an address to come back.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.rules.linger = linger;
        self
    }

    /// Sets for how long the last valid answer still counts while look-ups fail, from the end of its
    /// TTL. Default 24 h.
    pub fn stale_for(mut self, stale_for: Duration) -> Self {
        self.rules.stale_for = stale_for;
        self
    }

    /// Sets the longest pause between two tries of a failing question. Default 60 s; the floor if
    /// that is longer.
    pub fn max_backoff(mut self, max_backoff: Duration) -> Self {
        self.rules.max_backoff = max_backoff;
        self
    }

    /// Sets how many addresses an answer may hold; one with more is a failure. Default 256.
    pub fn max_addresses(mut self, max_addresses: usize) -> Self {
        self.rules.max_addresses = max_addresses;
        self
    }

    /// Sets how many addresses of one host may linger at a time. Default 1,024.
    pub fn max_lingering(mut self, max_lingering: usize) -> Self {
        self.rules.max_lingering = max_lingering;
        self
    }

    /// Sets how long one question may take, all servers and retries included. Default 5 s.
    ///
    /// An expired answer stays in use for as long as its refresh can take.
    pub fn question_time_limit(mut self, limit: Duration) -> Self {
        self.rules.question_time_limit = limit;
        self
    }

    /// Looks up one family only, for networks in which the questions of the other one are never
    /// answered.
    ///
    /// A peer of the other family is then [`NotListed`](crate::RejectionKind::NotListed), unless a
    /// [static network](Self::net) admits it.
    pub fn only_family(mut self, family: Family) -> Self {
        self.rules.only_family = Some(family);
        self
    }

    /// Sets the least time between two lookups of one question for unlisted peers. Default 5 s.
    ///
    /// The [floor](Self::ttl_bounds) or [`on_demand_wait`](Self::on_demand_wait), if longer, counts instead.
    pub fn on_demand_interval(mut self, interval: Duration) -> Self {
        self.on_demand.interval = interval;
        self
    }

    /// Sets how long the request of an unlisted peer waits for lookups. Default 1 s; zero judges at once.
    pub fn on_demand_wait(mut self, wait: Duration) -> Self {
        self.on_demand.wait = wait;
        self
    }

    /// Sets how many unlisted peers wait at a time; others are judged at once. Default 1,024.
    ///
    /// All requests of one peer wait in one place, so that many of them take it from no other peer. The
    /// IPv6 addresses of one /64 are one peer.
    pub fn max_waiting(mut self, waiters: usize) -> Self {
        self.on_demand.waiters = waiters;
        self
    }

    /// Keeps what is known in a file, so that a restart while DNS is down refuses no known server. Off
    /// by default.
    ///
    /// JSON, written next to its final name (`<name>.tmp`) and renamed: at once when
    /// addresses change, at most once a minute when only times do, and when the refresher ends. It
    /// holds the original times (UTC), so that restarts stretch no window. What it holds of hosts that
    /// are not in the list is kept for its windows, for the case that they are configured again, and
    /// admits no peer until then. One file is for one list of one process.
    ///
    /// A file is ignored with a warning, and not overwritten before there is something to write, if it
    /// is corrupt, larger than 4 MiB, of a newer version, from the future, or a symbolic link; if it
    /// belongs to another user than the process's own and root; or if it can be written by every user, by a
    /// group that the process is not in, or by a group that cannot read it. The mode of a new file is 0600; a group that can read the file can
    /// read the next one too. The file must not be a mount of its own, since it could not be replaced:
    /// mount its folder.
    ///
    /// State of more than 4 MiB is cut: first the addresses that have lingered longest, then the hosts
    /// named last.
    pub fn state_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.state_file = Some(path.into());
        self.restore_only = false;
        self
    }

    /// Starts with what a [state file](Self::state_file) holds, and never writes it: for a look at
    /// what another process keeps.
    ///
    /// The file may belong to any user and group, so that root and members of its group can look. What
    /// others can write is ignored here too. Do not admit peers by such a look unless you trust the owner
    /// of the file.
    pub fn restore_from(mut self, path: impl Into<PathBuf>) -> Self {
        self.state_file = Some(path.into());
        self.restore_only = true;
        self
    }

    /// Takes special-purpose addresses (loopback, private, documentation …) from answers. Whoever
    /// can forge an answer then opens the merchant's own network: only for tests.
    pub fn insecure_allow_special_addresses(mut self) -> Self {
        self.rules.insecure_allow_special_addresses = true;
        self
    }

    /// Builds the list and runs its [`Refresher`] on the current tokio runtime. Returns at once; DNS
    /// never delays a start.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn spawn(self, resolver: impl Resolve) -> AllowList {
        let (list, refresher) = self.pair(resolver);
        tokio::spawn(refresher.run());
        list
    }

    /// Builds the list and the [`Refresher`] that keeps it up to date, which the caller has to
    /// [run](Refresher::run).
    #[must_use = "nothing is looked up unless the refresher runs"]
    pub fn pair(self, resolver: impl Resolve) -> (AllowList, Refresher) {
        warn_of_gaps(&self.hosts);
        if self.hosts.is_empty() && self.networks.is_empty() {
            warn!(target: LOG_TARGET, "the list has no host and no network: every callback is refused");
        }
        let now = now();
        let floor = self.rules.min_ttl;
        let time_limit = self.rules.question_time_limit;
        let mut set = AllowSet::new(self.rules, self.hosts, &self.networks, now)
            .expect("`nets` has checked the networks");
        let state_file = self.state_file.map(|path| match self.restore_only {
            true => StateFile::looked_at(path),
            false => StateFile::kept(path),
        });
        if let Some(file) = &state_file {
            file.restore(&mut set, now);
        }
        let sleep_clock = SleepClock::from_system();
        let state_file = state_file.filter(|_| !self.restore_only).map(Arc::new);
        let schedule = Schedule::new(floor, &self.on_demand);
        let mut shared = Shared::new(set, self.on_demand, now);
        shared.state_file = state_file.clone();
        let list = AllowList::new(Arc::new(shared));
        let cache = AnswerCache::new(resolver, time_limit);
        let refresher = Refresher::new(&list, cache, schedule, sleep_clock, state_file);
        (list, refresher)
    }
}

pub(super) fn warn_of_gaps(hosts: &[HostName]) {
    if vipps::lacks_disaster_recovery(hosts) {
        warn!(
            target: LOG_TARGET,
            "the hosts contain callback servers of production, but not all of those for disaster \
             recovery: an outage at the provider will be one here; name the environment `production` \
             as a whole"
        );
    }
}

/// TTL bounds that cannot be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "TTL bounds of {least:?} to {most:?} are not possible: the least TTL must be at least 1 s and at \
     most the greatest"
)]
pub struct TtlBoundsError {
    least: Duration,
    most: Duration,
}

/// Below this a TTL of zero would have DNS asked without pause.
const MIN_FLOOR: Duration = Duration::from_secs(1);
