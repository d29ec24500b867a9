//! The configuration of a list.

mod unlisted_peers;

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

/// Configures an [`AllowList`].
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
    watch: Vec<HostName>,
    name: Option<String>,
}

impl AllowListBuilder {
    /// Adds the callback servers of an environment. Those of production include the servers for disaster
    /// recovery. A second call adds the servers of another environment.
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

    /// Adds a static network, which is admitted whatever DNS answers.
    ///
    /// # Errors
    ///
    /// Fails if the network covers a whole address family, alone or together with those added before.
    ///
    /// ```
    /// use callback_source::AllowList;
    ///
    /// let builder = AllowList::builder().net("212.93.32.0/19".parse()?)?;
    /// assert!(builder.net("0.0.0.0/0".parse()?).is_err());
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn net(self, network: IpNet) -> Result<Self, NetworkError> {
        self.nets([network])
    }

    /// Adds static networks, which are admitted whatever DNS answers.
    ///
    /// # Errors
    ///
    /// Fails if the networks cover a whole address family, alone or together with those added before.
    pub fn nets(mut self, networks: impl IntoIterator<Item = IpNet>) -> Result<Self, NetworkError> {
        for network in networks {
            self.cover.add(network)?;
            self.networks.push(network);
        }
        Ok(self)
    }

    /// Sets the bounds to which the TTL of an answer is clamped. Default 5 s to 1 h.
    ///
    /// The lower bound is also the refresh interval floor: no question is asked more often.
    ///
    /// # Errors
    ///
    /// Fails if `min` is below 1 s or above `max`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use callback_source::AllowList;
    ///
    /// let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
    /// assert!(AllowList::builder().ttl_bounds(second, hour).is_ok());
    /// assert!(AllowList::builder().ttl_bounds(Duration::ZERO, hour).is_err());
    /// ```
    pub fn ttl_bounds(mut self, min: Duration, max: Duration) -> Result<Self, TtlBoundsError> {
        if min < MIN_FLOOR || max < min {
            return Err(TtlBoundsError { min, max });
        }
        self.rules.min_ttl = min;
        self.rules.max_ttl = max;
        Ok(self)
    }

    /// Sets how long an address stays admitted after it left the answer, and at least until the answer that
    /// omits it has been refreshed. Zero turns lingering off. Default 1 h.
    ///
    /// A zone that rotates its addresses needs a window of as many TTLs as an address takes to come back.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.rules.linger = linger;
        self
    }

    /// Sets how long the last valid answer stays in use while lookups fail, from the end of its TTL.
    /// Default 24 h.
    pub fn stale_for(mut self, stale_for: Duration) -> Self {
        self.rules.stale_for = stale_for;
        self
    }

    /// Sets the longest pause between two lookups of a failing question. Default 60 s, and at least the
    /// [refresh interval floor](Self::ttl_bounds).
    pub fn max_backoff(mut self, max_backoff: Duration) -> Self {
        self.rules.max_backoff = max_backoff;
        self
    }

    /// Sets how many addresses an answer may contain. An answer with more is treated as a failed lookup.
    /// Default 256.
    pub fn max_addresses(mut self, max_addresses: usize) -> Self {
        self.rules.max_addresses = max_addresses;
        self
    }

    /// Sets how many addresses of one host may linger at a time. Beyond that, the oldest are no longer
    /// admitted. Default 1,024.
    pub fn max_lingering(mut self, max_lingering: usize) -> Self {
        self.rules.max_lingering = max_lingering;
        self
    }

    /// Sets the time limit of one question, which includes all servers and retries. Default 5 s.
    ///
    /// An expired answer stays in use for as long as its refresh can take.
    pub fn question_time_limit(mut self, limit: Duration) -> Self {
        self.rules.question_time_limit = limit;
        self
    }

    /// Looks up one address family only, for networks where questions for the other one are never answered.
    ///
    /// A peer of the other family is then [`NotListed`](crate::RejectionKind::NotListed), unless a
    /// [static network](Self::net) admits it.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use callback_source::{AllowList, Answer, Family, Question, RejectionKind};
    ///
    /// let resolver = |question: Question| async move {
    ///     assert_eq!(question.family, Family::V4);
    ///     Ok(Answer::new(["20.0.0.1".parse().unwrap()], Duration::from_secs(60)))
    /// };
    /// let list = AllowList::builder()
    ///     .host("callbacks.example.com".parse()?)
    ///     .only_family(Family::V4)
    ///     .spawn(resolver);
    /// list.ready().await;
    /// let verdict = list.verdict("2606:4700::1".parse()?);
    /// assert_eq!(verdict.rejection().unwrap().kind(), RejectionKind::NotListed);
    /// # Ok(())
    /// # }
    /// ```
    pub fn only_family(mut self, family: Family) -> Self {
        self.rules.only_family = Some(family);
        self
    }

    /// Keeps the state in a file, so that known servers are still admitted after a restart while DNS is
    /// down. Off by default.
    ///
    /// The file is JSON. It is written under a temporary name (`<name>.tmp`) and then renamed: at once when
    /// addresses change, at most once a minute when only times change, and when the refresher ends. Its times
    /// are the original ones (UTC), so that restarts extend no window. The state of hosts that are not
    /// configured is kept for its windows, in case they are configured again. Until then it admits no peer.
    /// Each list of each process needs a file of its own.
    ///
    /// A file is ignored with a warning, and not overwritten before there is state to write, if it
    ///
    /// - is corrupt, larger than 4 MiB, of a newer version, from the future, or a symbolic link;
    /// - belongs to a user other than the process's own and root;
    /// - can be written by every user, by a group that the process is not in, or by a group that cannot read
    ///   it.
    ///
    /// The mode of a new file is 0600. A group that can read the file can also read the next one. The file
    /// must not be a mount of its own, since it could not be replaced: mount its folder.
    ///
    /// State of more than 4 MiB is cut: first the addresses that have lingered longest, then the hosts named
    /// last.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("state.json");
    /// use std::time::Duration;
    /// use callback_source::{AllowList, Answer, Question, ResolveError, ResolveErrorKind};
    ///
    /// let builder = AllowList::builder()
    ///     .host("callbacks.example.com".parse()?)
    ///     .state_file(&path);
    /// let (list, refresher) = builder.clone().pair(|_: Question| async {
    ///     Ok(Answer::new(["20.0.0.1".parse().unwrap()], Duration::from_secs(60)))
    /// });
    /// let running = tokio::spawn(refresher.run());
    /// list.ready().await;
    /// drop(list);
    /// running.await?;
    ///
    /// // Another process reads the file without writing it.
    /// let (inspected, _) = builder.clone().restore_from(&path).pair(|_: Question| async {
    ///     Err(ResolveError::new(ResolveErrorKind::Timeout))
    /// });
    /// assert!(inspected.verdict("20.0.0.1".parse()?).is_allowed());
    ///
    /// // After the restart DNS is down.
    /// let list = builder.spawn(|_: Question| async {
    ///     Err(ResolveError::new(ResolveErrorKind::Timeout))
    /// });
    /// assert!(list.verdict("20.0.0.1".parse()?).is_allowed());
    /// # Ok(())
    /// # }
    /// ```
    pub fn state_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.state_file = Some(path.into());
        self.restore_only = false;
        self
    }

    /// Starts with the content of a [state file](Self::state_file) and never writes it, to inspect the state
    /// of another process.
    ///
    /// The file may belong to any user and group, so that root and members of its group can read it. A file
    /// that every user can write is ignored here too. Do not admit peers by such a list unless you trust the
    /// owner of the file.
    ///
    /// See [`state_file`](Self::state_file) for an example.
    pub fn restore_from(mut self, path: impl Into<PathBuf>) -> Self {
        self.state_file = Some(path.into());
        self.restore_only = true;
        self
    }

    /// Admits special-purpose addresses (loopback, private, documentation …) from answers. Only for tests:
    /// whoever can forge an answer then admits the merchant's own network.
    pub fn insecure_allow_special_addresses(mut self) -> Self {
        self.rules.insecure_allow_special_addresses = true;
        self
    }

    /// Sets the name of the list, which is the label `list` of its [metrics](AllowList#metrics). By default the
    /// provider's environment (`production`, `test`), or `default`. If another list of the process has the same
    /// name, a number is added: `production-2`.
    ///
    /// ```
    /// use callback_source::AllowList;
    ///
    /// let builder = AllowList::builder().name("checkout");
    /// ```
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Builds the list and runs its [`Refresher`] on the current tokio runtime. Returns at once: DNS never
    /// delays a start.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    pub fn spawn(self, resolver: impl Resolve) -> AllowList {
        let (list, refresher) = self.pair(resolver);
        tokio::spawn(refresher.run());
        list
    }

    /// Builds the list and its [`Refresher`], which the caller [runs](Refresher::run). See [`Refresher`] for an
    /// example.
    #[must_use = "nothing is looked up unless the refresher runs"]
    pub fn pair(self, resolver: impl Resolve) -> (AllowList, Refresher) {
        warn_of_gaps(&self.hosts);
        if self.hosts.is_empty() && self.networks.is_empty() {
            warn!(target: LOG_TARGET, "the list has no host and no network: every callback is refused");
        }
        let now = now();
        let floor = self.rules.min_ttl;
        let time_limit = self.rules.question_time_limit;
        let watched = watched_hosts(&self.watch, &self.hosts);
        let environments = self.hosts.iter().filter_map(vipps::Environment::of_host);
        let environment = vipps::only_environment(environments).map(vipps::Environment::as_str);
        let name = self.name.as_deref().or(environment).unwrap_or(UNNAMED);
        let mut set = AllowSet::new(self.rules, self.hosts, &self.networks, now)
            .expect("`nets` has checked the networks");
        set.watch(watched, now);
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
        let mut shared = Shared::new(set, self.on_demand, name, now);
        shared.state_file = state_file.clone();
        shared.watch = self.watch;
        let list = AllowList::new(Arc::new(shared));
        let cache = AnswerCache::new(resolver, time_limit);
        let refresher = Refresher::new(&list, cache, schedule, sleep_clock, state_file);
        (list, refresher)
    }
}

/// The hosts that a list watches: those that were given, and the provider's other environments.
pub(super) fn watched_hosts(given: &[HostName], hosts: &[HostName]) -> Vec<HostName> {
    let others = vipps::hosts_of_other_environments(hosts);
    given.iter().cloned().chain(others).collect()
}

/// Warns of hosts that omit servers of the provider.
pub(super) fn warn_of_gaps(hosts: &[HostName]) {
    if vipps::lacks_disaster_recovery(hosts) {
        warn!(
            target: LOG_TARGET,
            "the hosts include callback servers of production, but not all of those for disaster \
             recovery, so callbacks will be refused when the provider switches to them; use the \
             environment `production`"
        );
    }
}

/// Error for invalid TTL bounds.
///
/// See [`AllowListBuilder::ttl_bounds`] for an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid TTL bounds {min:?} to {max:?}: the minimum must be at least 1 s and at most the maximum"
)]
pub struct TtlBoundsError {
    min: Duration,
    max: Duration,
}

/// The name of a list without one, in its metrics.
pub(super) const UNNAMED: &str = "default";

/// With less, a TTL of zero would cause lookups without pause.
const MIN_FLOOR: Duration = Duration::from_secs(1);
