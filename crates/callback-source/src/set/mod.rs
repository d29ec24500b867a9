//! Set of the addresses that may call. It computes verdicts from the outcomes of DNS questions and from the time.
//!
//! [`AllowSet`] is pure. It has no clock, does no I/O and never waits. Each rule below depends only on the outcomes
//! that were applied and on the `now` that is passed in.
//!
//! The set has two questions about each host, A and AAAA. The outcome of a question is an answer, a
//! denial ("no such name" or "no such record"), or a failed lookup.
//!
//! 1. **Answer.** The addresses of an answer are admitted until the answer's TTL, clamped to `min_ttl` and `max_ttl`,
//!    has ended. Then the question is due again. The expired answer stays in use while it is refreshed. A refresh takes
//!    at most one second, plus the maximum jitter (500 ms), plus the time limit of a question.
//! 2. **Linger.** An address that left the answer stays admitted for the linger window. The window starts with the
//!    answer (or believed denial) that first omits the address. The address stays admitted at least until that answer
//!    has been refreshed. With the exceptions below, a single answer that omits an address therefore never removes the
//!    address. The end of the window is fixed when the address leaves the answer. If a denial is believed while
//!    addresses of its family linger, the question is due again within a quarter of the linger window, or within
//!    `min_ttl` if that is longer. An address that was no longer admitted when it left the answer does not linger. With
//!    a linger window of zero, no address lingers. If more than `max_lingering` addresses of a host linger, those that
//!    left first are removed.
//! 3. **Stale.** While a question fails, its last valid answer stays in use for the stale window. The stale window
//!    starts at the end of the answer's TTL. The linger window and the stale window are independent: an address is
//!    admitted while either window is open.
//! 4. **Denial.** If the last valid outcome of a question was an answer, a denial of that question needs evidence from
//!    the same zone. The denial is believed once another host in the zone has an unexpired answer that is not older
//!    than the denial. This rule applies even if the question's last answer is no longer in use, and after a restart
//!    that restores the state. When the denial is believed, the addresses of the question start to linger. Less
//!    evidence is enough for a question that has never been answered, or whose last valid outcome was a denial. Any
//!    unexpired answer of another host is then evidence. For "no such record", an unexpired answer of the same host's
//!    other family is evidence, too. An answer that was restored after a restart is never evidence. A denial that is
//!    not believed is treated as a failed lookup. It is reconsidered whenever another answer arrives, until a newer
//!    outcome of the same question replaces it.
//!
//!    Two hosts are in the same zone if their names have the same parent domain and that domain is not a public suffix.
//!    The parent domain must have at least two labels, and must not be a country's second level such as `co.uk`.
//! 5. **Families** are independent. A failing AAAA question neither removes nor refreshes the answer to the A question.
//!    NXDOMAIN applies only to the family that was asked for, since the other family has its own question. If only one
//!    family is looked up, the other family has no questions and no addresses. Every host is then resolved for the
//!    other family.
//! 6. **Given up.** A question is given up when it has failed throughout a window that is as long as the stale window.
//!    This window starts at the first failure, but not before the end of the last valid outcome's TTL. A question that
//!    is given up no longer makes verdicts [`Unresolved`](RejectionKind::Unresolved).
//!    - Time during which the question was not asked is not part of the window. If the next failure is later than the
//!      question's due time by more than a refresh can take, there is a gap. The window then starts anew with that
//!      failure. A pause between two failures is never a gap if it exceeds neither the maximum TTL nor a quarter of the
//!      stale window. If the window ends without a further failure, the question is given up only if a failure at that
//!      time would not follow a gap. A restart starts the window anew.
//!    - A question is given up only while there is evidence that DNS works. The evidence is an answer of another host.
//!      An answer that was restored after a restart is not evidence. An answer whose own question does not fail is
//!      evidence while it is unexpired or being refreshed. An answer that arrived after the end of the window is
//!      evidence while it is in use. If the set has other hosts in the same zone, the evidence must be an answer of one
//!      of these hosts. An answer of another zone cannot confirm that a zone without any answer is gone.
//! 7. **Special-purpose addresses** in an answer are dropped. An answer with only special-purpose addresses is a failed
//!    lookup. An answer with more than `max_addresses` addresses is a failed lookup, too. An address in a standard
//!    DNS64 prefix is treated as if its record did not exist.
//! 8. **Watched hosts** are looked up but never admitted. If every host is resolved, an unlisted peer that has an
//!    address of a watched host is rejected as [`WrongEnvironment`](RejectionKind::WrongEnvironment) instead of
//!    [`NotListed`](RejectionKind::NotListed). Watched hosts form a separate set with the same rules. Their answers are
//!    therefore not evidence for rules 4 and 6. Watched hosts have no effect on readiness, on health, or on the state
//!    that a restart restores.
//!
//! ```
//! use std::{net::IpAddr, time::{Duration, Instant}};
//! use callback_source::{AllowSet, Answer, HostName, RejectionKind, ResolveError, ResolveErrorKind};
//! use callback_source::set::Rules;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let now = Instant::now();
//! let host: HostName = "callback.example.com".parse()?;
//! let mut set = AllowSet::new(Rules::default(), [host], &[], now)?;
//! let questions: Vec<_> = set.questions().map(|(question, _)| question).collect();
//! let [listed, unlisted]: [IpAddr; 2] = ["20.0.0.1".parse()?, "20.0.0.9".parse()?];
//!
//! // Before the first outcome the set cannot decide.
//! let verdict = set.verdict(unlisted, now);
//! assert_eq!(verdict.rejection().map(|of| of.kind()), Some(RejectionKind::Unresolved));
//!
//! let answer = Answer::new([listed], Duration::from_secs(60));
//! set.apply(&questions[0], Ok(answer), now);
//! assert!(set.verdict(listed, now).is_allowed());
//! let verdict = set.verdict(unlisted, now);
//! assert_eq!(verdict.rejection().map(|of| of.kind()), Some(RejectionKind::NotListed));
//!
//! // A failed lookup removes no address: the answer is now stale.
//! let later = now + Duration::from_secs(60);
//! set.apply(&questions[0], Err(ResolveError::new(ResolveErrorKind::ServFail)), later);
//! assert!(set.verdict(listed, later).is_allowed());
//! # Ok(())
//! # }
//! ```

// Rules 1 and 3 are in `question_state.rs`, 2 in `host.rs`, 4 in `denial.rs`, 6 in `given_up.rs`, 7 in
// `special_purpose.rs`, 8 in `watched.rs`. For rule 5, a host has one `QuestionState` for each family.

mod address_table;
mod denial;
mod given_up;
mod health;
mod host;
mod index;
mod instant;
pub(crate) mod networks;
mod notice;
mod persist;
mod question_state;
mod question_view;
mod replacing;
mod rules;
mod special_purpose;
mod watched;

#[cfg(any(test, fuzzing))]
pub(crate) mod model;
#[cfg(test)]
mod tests;

pub(crate) use {
    health::Standing,
    instant::{after, before},
    persist::{PersistedHost, PersistedLingering, PersistedQuestion},
    question_state::LastAnswer,
    rules::{LAST_SECOND, MAX_JITTER},
};
pub use {
    health::{FamilyHealth, HostHealth, QuestionStatus},
    networks::NetworkError,
    notice::{Notice, SetChange},
    rules::Rules,
};

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;

use self::{
    host::Host,
    index::{Index, admitted_at},
    networks::Networks,
    watched::Watched,
};
use crate::{
    Allowed, Answer, Family, Freshness, HostName, Question, Rejection, RejectionKind, ResolveError,
    Verdict, verdict::Source,
};

/// Set of the addresses that may call. See the [module docs](self) for its rules and an example.
#[derive(Clone, Debug)]
pub struct AllowSet {
    rules: Rules,
    /// Hosts in the order of the configuration, without duplicates.
    hosts: Vec<Host>,
    networks: Networks,
    networks_since: Instant,
    all_attempted: bool,
    index: Index,
    /// Watched hosts. All clones of the set share them, since they change rarely.
    watched: Option<Arc<Watched>>,
}

impl AllowSet {
    /// Creates a set of these hosts and static networks. Every question is due at `now`.
    ///
    /// # Errors
    ///
    /// Returns an error if the networks cover a whole address family, as `0.0.0.0/0` does.
    pub fn new(
        rules: Rules,
        hosts: impl IntoIterator<Item = HostName>,
        networks: &[IpNet],
        now: Instant,
    ) -> Result<Self, NetworkError> {
        let mut set = Self {
            rules,
            hosts: Vec::new(),
            networks: Networks::new(networks)?,
            networks_since: now,
            all_attempted: false,
            index: Index::new(Vec::new(), [Vec::new(), Vec::new()], now),
            watched: None,
        };
        set.replace_hosts(hosts, now);
        Ok(set)
    }

    /// Applies the outcome of a question, and returns the events that an operator should know about.
    ///
    /// An outcome changes nothing if its question is neither in the set nor about a watched host, for example because
    /// the host was removed during the lookup. The answer to a question about a watched host admits no address.
    ///
    /// A denial is not believed without evidence that DNS works (rule 4):
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    /// use callback_source::{AllowSet, Answer, ResolveError, ResolveErrorKind, set::{Notice, Rules}};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let now = Instant::now();
    /// let mut set = AllowSet::new(Rules::default(), ["callbacks.example.com".parse()?], &[], now)?;
    /// let (question, _) = set.questions().next().expect("the set has a host");
    /// let answer = Answer::new(["20.0.0.1".parse()?], Duration::from_secs(60));
    /// set.apply(&question, Ok(answer), now);
    ///
    /// // A captive portal denies every name.
    /// let later = now + Duration::from_secs(61);
    /// let notices = set.apply(&question, Err(ResolveError::new(ResolveErrorKind::NxDomain)), later);
    /// assert!(matches!(&notices[..], [Notice::Failed { error, .. }] if error.is_denial()));
    /// assert!(set.verdict("20.0.0.1".parse()?, later).is_allowed());
    /// # Ok(())
    /// # }
    /// ```
    pub fn apply(
        &mut self,
        question: &Question,
        outcome: Result<Answer, ResolveError>,
        now: Instant,
    ) -> Vec<Notice> {
        let Some(at) = self.position(question) else {
            return self.apply_watched(question, outcome, now);
        };
        let family = question.family;
        let mut notices = Vec::new();
        self.end_windows(now);
        let (outcome, dropped) = special_purpose::usable(outcome, &self.rules);
        if !dropped.is_empty() {
            notices.push(Notice::Dropped {
                question: question.clone(),
                addresses: dropped.clone(),
            });
        }
        let error = outcome.as_ref().err();
        let is_denied = error.is_some_and(|error| self.view(at, family).believes(error, now, now));
        let (host, rules) = (&mut self.hosts[at], &self.rules);
        match outcome {
            Ok(answer) => host.answer(family, &answer, rules, now, &mut notices),
            Err(error) if is_denied => {
                host.deny(family, &error, now, rules, now, &mut notices);
            }
            Err(error) => host.fail(family, error, rules, now, &mut notices),
        }
        let state = host.state_mut(family);
        state.dropped = dropped;
        state.attempted = true;
        self.settle(now, &mut notices);
        notices
    }

    /// Removes every address and outcome whose window has ended. Call this method at
    /// [`next_change_at`](Self::next_change_at), so that changes are reported when they happen. Verdicts are correct
    /// even without this call.
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    /// use callback_source::{AllowSet, Answer, set::{Notice, Rules}};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let now = Instant::now();
    /// let mut set = AllowSet::new(Rules::default(), ["callbacks.example.com".parse()?], &[], now)?;
    /// let (question, _) = set.questions().next().expect("the set has a host");
    /// let answer = |address: &str| Answer::new([address.parse().unwrap()], Duration::from_secs(60));
    /// set.apply(&question, Ok(answer("20.0.0.1")), now);
    /// set.apply(&question, Ok(answer("20.0.0.2")), now);
    ///
    /// // The clock of a driver that goes from one end of a window to the next.
    /// let mut clock = now;
    /// let change = loop {
    ///     clock = set.next_change_at(clock).expect("a window is open");
    ///     if let Some(Notice::Changed(change)) = set.expire(clock).into_iter().next() {
    ///         break change;
    ///     }
    /// };
    /// assert_eq!(clock, now + Duration::from_secs(60 * 60), "the linger window");
    /// assert_eq!(change.removed, ["20.0.0.1".parse::<std::net::IpAddr>()?]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn expire(&mut self, now: Instant) -> Vec<Notice> {
        let mut notices = Vec::new();
        self.settle(now, &mut notices);
        notices
    }

    /// Moves the times of the set into the past by the length of a sleep of the machine. `Instant` does not advance
    /// during such a sleep.
    ///
    /// No question was asked during the sleep, so the window of rule 6 starts anew.
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    /// use callback_source::{AllowSet, Answer, set::Rules};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let now = Instant::now();
    /// let mut set = AllowSet::new(Rules::default(), ["callbacks.example.com".parse()?], &[], now)?;
    /// let (question, _) = set.questions().next().expect("the set has a host");
    /// let server = "20.0.0.1".parse()?;
    /// set.apply(&question, Ok(Answer::new([server], Duration::from_secs(60))), now);
    ///
    /// // A laptop that was closed for a weekend.
    /// set.slept(Duration::from_secs(2 * 24 * 60 * 60), now);
    /// assert!(!set.verdict(server, now).is_allowed());
    /// # Ok(())
    /// # }
    /// ```
    pub fn slept(&mut self, slept: Duration, now: Instant) -> Vec<Notice> {
        let mut notices = Vec::new();
        self.networks_since = before(self.networks_since, slept);
        for host in &mut self.hosts {
            host.slept(slept, now);
        }
        if let Some(watched) = self.watched_set_mut() {
            let _ = watched.slept(slept, now);
        }
        self.settle(now, &mut notices);
        notices
    }

    /// Replaces the linger window and the stale window.
    ///
    /// The stale window of an answer that is in use changes at once. An address that already lingers keeps the end of
    /// its window. A longer window does not bring back an address whose window has ended.
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    /// use callback_source::{AllowSet, Answer, HostName, set::Rules};
    ///
    /// let (start, second) = (Instant::now(), Duration::from_secs(1));
    /// let host: HostName = "callback.example.com".parse()?;
    /// let mut set = AllowSet::new(Rules::default(), [host], &[], start)?;
    /// let (question, _) = set.questions().next().unwrap();
    /// let address = "20.0.0.1".parse()?;
    /// set.apply(&question, Ok(Answer::new([address], 60 * second)), start);
    ///
    /// let later = start + 3600 * second;
    /// assert!(set.verdict(address, later).is_allowed());
    /// set.replace_windows(Duration::ZERO, 60 * second, later);
    /// assert!(!set.verdict(address, later).is_allowed());
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn replace_windows(
        &mut self,
        linger: Duration,
        stale_for: Duration,
        now: Instant,
    ) -> Vec<Notice> {
        // The old windows are applied first, so that a longer window does not bring back an address whose window has
        // ended since the last change.
        self.end_windows(now);
        self.rules.linger = linger;
        self.rules.stale_for = stale_for;
        if let Some(watched) = self.watched_set_mut() {
            let _ = watched.replace_windows(linger, stale_for, now);
        }
        let mut notices = Vec::new();
        self.settle(now, &mut notices);
        notices
    }

    /// Returns the verdict on a peer. For a given configuration, the verdict depends only on the outcomes so far and on
    /// `now`. `now` may be later than the last call of [`expire`](Self::expire).
    pub fn verdict(&self, peer: IpAddr, now: Instant) -> Verdict {
        let peer = peer.to_canonical();
        if let Some(admission) = self.index.find(peer, now) {
            return Verdict::Allow(Allowed {
                peer,
                source: Source::Host(admission.host.clone()),
                freshness: admission.freshness,
                since: admission.since,
            });
        }
        if !self.networks.is_empty()
            && let Some(network) = self.networks.find(peer)
        {
            return Verdict::Allow(Allowed {
                peer,
                source: Source::Network(network),
                freshness: Freshness::Static,
                since: self.networks_since,
            });
        }
        #[cfg(callback_source_simulation)]
        if let Some(allowed) = self.planted_admission(peer, now) {
            return Verdict::Allow(allowed);
        }
        Verdict::Reject(self.rejection(peer, now))
    }

    /// Returns the rejection of an unlisted peer. The function is not inlined, so that it does not slow down the
    /// verdict on a listed peer.
    #[inline(never)]
    fn rejection(&self, peer: IpAddr, now: Instant) -> Rejection {
        let family = match peer {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        };
        if !self.index.is_resolved(family, now) {
            return Rejection::new(RejectionKind::Unresolved, Some(peer));
        }
        if self.watched.is_some()
            && let Some(rejection) = self.wrong_environment(peer, now)
        {
            return rejection;
        }
        Rejection::new(RejectionKind::NotListed, Some(peer))
    }

    /// Returns whether every question has had an outcome, and an address or a static network is admitted. A set
    /// that became ready stays ready until no address and no static network is admitted.
    #[must_use]
    pub fn is_ready(&self, now: Instant) -> bool {
        let mut admissions = self.index.admissions();
        self.all_attempted
            && (!self.networks.is_empty() || admissions.any(|admission| now < admission.until))
    }

    /// Returns whether every question has had an outcome of any kind. Once the result is `true`, hosts that are added
    /// later do not change it.
    #[must_use]
    pub fn is_attempted(&self) -> bool {
        self.all_attempted
    }

    /// Returns the hosts, in the order in which they were given.
    pub fn hosts(&self) -> impl Iterator<Item = &HostName> {
        self.hosts.iter().map(|host| &host.name)
    }

    /// Returns the static networks, merged and sorted.
    pub fn networks(&self) -> impl Iterator<Item = IpNet> {
        self.networks.iter()
    }

    /// Returns the addresses that are admitted by DNS at `now`, sorted and without duplicates.
    #[must_use]
    pub fn addresses(&self, now: Instant) -> BTreeSet<IpAddr> {
        admitted_at(self.index.admissions(), now).collect()
    }

    /// Returns the addresses that are admitted by DNS at `now`, each with the end of its window.
    ///
    /// If an address has several windows, the latest end is returned. Without another outcome, the address stays
    /// admitted until that time. Static networks have no end and are not included.
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    /// use callback_source::{AllowSet, Answer, Family, Question, set::Rules};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let now = Instant::now();
    /// let host: callback_source::HostName = "callback.example.com".parse()?;
    /// let mut set = AllowSet::new(Rules::default(), [host.clone()], &[], now)?;
    /// let question = Question { host, family: Family::V4 };
    /// let answer = Answer::new(["20.0.0.1".parse()?], Duration::from_secs(60));
    /// set.apply(&question, Ok(answer), now);
    /// let stale_until = now + Duration::from_secs(60) + Rules::default().stale_for;
    /// assert_eq!(set.windows(now).into_values().collect::<Vec<_>>(), [stale_until]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn windows(&self, now: Instant) -> BTreeMap<IpAddr, Instant> {
        let mut windows = BTreeMap::new();
        for admission in self.index.admissions() {
            if now < admission.until {
                let until = windows.entry(admission.address).or_insert(admission.until);
                *until = admission.until.max(*until);
            }
        }
        windows
    }

    /// Returns whether every host is resolved for a family, or `false` for a set without hosts and networks. If a host
    /// is not resolved, an address that the set does not contain may still be an address of that host. Unlisted peers
    /// of the family are therefore [`Unresolved`](RejectionKind::Unresolved).
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    /// use callback_source::{AllowSet, Answer, Family, Question, set::Rules};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let now = Instant::now();
    /// let host: callback_source::HostName = "callback.example.com".parse()?;
    /// let mut set = AllowSet::new(Rules::default(), [host.clone()], &[], now)?;
    /// assert!(!set.is_resolved(Family::V4, now));
    /// let question = Question { host, family: Family::V4 };
    /// let answer = Answer::new(["20.0.0.1".parse()?], Duration::from_secs(60));
    /// set.apply(&question, Ok(answer), now);
    /// assert!(set.is_resolved(Family::V4, now) && !set.is_resolved(Family::V6, now));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn is_resolved(&self, family: Family, now: Instant) -> bool {
        self.index.is_resolved(family, now)
    }

    /// Returns the rules of the set.
    ///
    /// [`replace_windows`](Self::replace_windows) changes two of these rules:
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    /// use callback_source::{AllowSet, set::Rules};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let now = Instant::now();
    /// let mut set = AllowSet::new(Rules::default(), ["callbacks.example.com".parse()?], &[], now)?;
    /// let day = Duration::from_secs(24 * 60 * 60);
    /// set.replace_windows(day, 2 * day, now);
    /// assert_eq!(set.rules().stale_for, 2 * day);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Returns every question, with the time at which it is due.
    ///
    /// The due time is the end of the TTL or of the back-off. It includes neither the refresh interval floor nor a
    /// random delay:
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    /// use callback_source::{AllowSet, Answer, Family, set::Rules};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let now = Instant::now();
    /// let mut rules = Rules::default();
    /// rules.only_family = Some(Family::V4);
    /// let mut set = AllowSet::new(rules, ["callbacks.example.com".parse()?], &[], now)?;
    /// let due = set.questions().find(|(_, due_at)| *due_at <= now);
    /// let (question, _) = due.expect("a new host is due at once");
    ///
    /// let answer = Answer::new(["20.0.0.1".parse()?], Duration::from_secs(60));
    /// set.apply(&question, Ok(answer), now);
    /// let (_, due_at) = set.questions().next().expect("the set has a host");
    /// assert_eq!(due_at, now + Duration::from_secs(60));
    /// # Ok(())
    /// # }
    /// ```
    pub fn questions(&self) -> impl Iterator<Item = (Question, Instant)> {
        self.hosts.iter().flat_map(|host| {
            let families = self.rules.families();
            families.map(|family| (host.question(family), host.state(family).due_at))
        })
    }

    /// Returns the time at which a question of the set or about a watched host is due, or `None` for any other
    /// question.
    pub(crate) fn due_at(&self, question: &Question) -> Option<Instant> {
        self.find_asked(question)
            .map(|question| question.state().due_at)
    }

    /// Returns whether a question of the set or about a watched host has not had any outcome yet.
    pub(crate) fn is_unasked(&self, question: &Question) -> bool {
        self.find_asked(question)
            .is_some_and(|question| !question.state().attempted)
    }

    /// Returns the next time at which a window ends. See [`expire`](Self::expire) for an example.
    #[must_use]
    pub fn next_change_at(&self, now: Instant) -> Option<Instant> {
        let ends = self.index.admissions().map(|admission| admission.until);
        ends.filter(|until| now < *until).min()
    }

    fn end_windows(&mut self, now: Instant) {
        for host in &mut self.hosts {
            host.end_windows(&self.rules, now);
        }
    }

    /// Completes a change of the set: ends windows, reconsiders denials, reports the changes, and builds the index.
    fn settle(&mut self, now: Instant, notices: &mut Vec<Notice>) {
        self.end_windows(now);
        self.believe_late(now, notices);
        self.all_attempted |= self.hosts.iter().all(|host| {
            let mut families = self.rules.families();
            families.all(|family| host.state(family).attempted)
        });
        let mut admissions = Vec::new();
        for host in &mut self.hosts {
            let of_host = host.admissions(&self.rules);
            notices.extend(host.report(admitted_at(&of_host, now).collect(), now));
            admissions.extend(of_host);
        }
        let resolved = Family::ALL.map(|family| self.resolved_spans(family));
        self.index = Index::new(admissions, resolved, now);
    }
}
