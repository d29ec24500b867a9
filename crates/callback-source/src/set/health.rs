//! Health of each host, for operators.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{AllowSet, question_view::QuestionView};
use crate::{Family, HostName, Question, ResolveError, metrics::SetGauges};

/// Health of one host.
///
/// The health shows an operator how long the addresses stay admitted in an outage of DNS:
///
/// ```
/// use std::time::{Duration, Instant};
/// use callback_source::{AllowSet, Answer, ResolveError, ResolveErrorKind};
/// use callback_source::set::{QuestionStatus, Rules};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let now = Instant::now();
/// let mut set = AllowSet::new(Rules::default(), ["callback.example.com".parse()?], &[], now)?;
/// let (question, _) = set.questions().next().expect("the set has a host");
/// assert_eq!(set.health(now)[0].families[0].state, QuestionStatus::Unasked);
///
/// set.apply(&question, Ok(Answer::new(["20.0.0.1".parse()?], Duration::from_secs(60))), now);
/// let outage = now + Duration::from_secs(60);
/// set.apply(&question, Err(ResolveError::new(ResolveErrorKind::ServFail)), outage);
///
/// let host = &set.health(outage)[0];
/// let a_records = &host.families[0];
/// assert_eq!(a_records.state, QuestionStatus::Failing);
/// assert_eq!(a_records.failing_since, Some(outage));
/// assert_eq!(host.addresses.len(), 1, "still admitted");
/// let until = a_records.answered_at.expect("it is in use") + a_records.ttl.expect("it is in use")
///     + Rules::default().stale_for;
/// assert_eq!(until - outage, Duration::from_secs(24 * 60 * 60));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HostHealth {
    /// Name of the host.
    pub host: HostName,
    /// Addresses of the host that are admitted at this moment, including lingering addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Health of the host's two questions, A and AAAA.
    pub families: [FamilyHealth; 2],
    /// Number of addresses that were refused with 403 and appeared in an answer of the host within the linger window
    /// after the refusal. [`AllowList::health`](crate::AllowList::health) sets this number, since a set does not record
    /// refusals.
    pub refused_then_listed: u64,
}

/// Health of one question. See [`HostHealth`] for an example.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FamilyHealth {
    /// Family of the question.
    pub family: Family,
    /// Status of the question.
    pub state: QuestionStatus,
    /// Addresses of the last valid answer, sorted, while that answer is in use.
    pub addresses: Vec<IpAddr>,
    /// TTL of the last valid answer as the servers sent it, while that answer is in use.
    pub ttl: Option<Duration>,
    /// Time of the last valid answer, while that answer is in use.
    pub answered_at: Option<Instant>,
    /// Special-purpose addresses that were dropped from the last outcome.
    pub dropped: Vec<IpAddr>,
    /// Time of the first failure since the last valid outcome, while the question fails.
    pub failing_since: Option<Instant>,
    /// Error of the last failure, while the question fails.
    pub last_error: Option<ResolveError>,
}

/// Status of one question.
///
/// ```
/// use callback_source::set::QuestionStatus;
///
/// /// The states that need an operator. A denial is normal for the AAAA records of a host with IPv4 only.
/// fn needs_attention(status: QuestionStatus) -> bool {
///     use QuestionStatus::{Expired, Failing, GivenUp};
///     matches!(status, Failing | GivenUp | Expired)
/// }
///
/// assert!(!needs_attention(QuestionStatus::Denied));
/// assert_eq!(QuestionStatus::GivenUp.as_str(), "failed");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum QuestionStatus {
    /// The question has had no outcome yet.
    Unasked,
    /// The last outcome is an answer.
    Answered,
    /// The last outcome is a believed denial: the host has no addresses of this family.
    Denied,
    /// The last outcome is a failure. An earlier answer may still be in use.
    Failing,
    /// The question is given up: it has failed for the whole stale window, and an answer of another host shows that DNS
    /// works.
    GivenUp,
    /// The stale window of the last valid outcome is over, and no other outcome has arrived since.
    Expired,
    /// The list looks up only the other family.
    NotAsked,
}

impl QuestionStatus {
    /// Returns the name in lower case, for JSON and tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unasked => "unasked",
            Self::Answered => "answered",
            Self::Denied => "denied",
            Self::Failing => "failing",
            Self::GivenUp => "failed",
            Self::Expired => "expired",
            Self::NotAsked => "not-asked",
        }
    }
}

/// Effect that a failing question still has on verdicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The last answer or believed denial is in use.
    InUse { until: Instant, restored: bool },
    /// No outcome is in use, because the question has had no valid outcome yet.
    Unknown,
    /// The stale window is over, but the question is not given up.
    Over,
    /// The question is given up, so verdicts do not depend on it.
    GivenUp,
}

impl AllowSet {
    /// Returns the health of each host.
    #[must_use]
    pub fn health(&self, now: Instant) -> Vec<HostHealth> {
        let hosts = self.hosts.iter().enumerate();
        hosts
            .map(|(at, host)| HostHealth {
                host: host.name.clone(),
                addresses: host.admitted(&self.rules, now),
                families: Family::ALL.map(|family| self.view(at, family).health(now)),
                refused_then_listed: 0,
            })
            .collect()
    }

    /// Returns the values of the metrics that are gauges.
    pub(crate) fn gauges(&self, now: Instant) -> SetGauges {
        let states = self.hosts.iter().flat_map(|host| &host.questions);
        let answers = states.filter(|state| now < state.stale_until(&self.rules));
        let answered_at = answers.filter_map(|state| Some(state.last_answer.as_ref()?.answered_at));
        SetGauges {
            addresses: self.addresses(now).len(),
            last_answer: answered_at.clone().max(),
            oldest_answer: answered_at.min(),
        }
    }

    /// Returns the effect that a failing question still has on verdicts. `None` if the question is not in the set.
    pub(crate) fn standing(&self, question: &Question, now: Instant) -> Option<Standing> {
        self.find(question).map(|question| question.standing(now))
    }
}

impl QuestionView<'_> {
    fn standing(self, now: Instant) -> Standing {
        if self.is_given_up(now) {
            return Standing::GivenUp;
        }
        let state = self.state();
        let until = state.stale_until(self.rules);
        if until <= now {
            return Standing::Over;
        }
        if !state.has_valid_outcome() {
            return Standing::Unknown;
        }
        let answer = state.last_answer.as_ref();
        Standing::InUse {
            until,
            restored: answer.is_some_and(|answer| answer.restored),
        }
    }

    fn health(self, now: Instant) -> FamilyHealth {
        let state = self.state();
        let is_in_use = now < state.stale_until(self.rules);
        let answer = state.last_answer.as_ref().filter(|_| is_in_use);
        let failing = state.failing.as_ref();
        let status = match failing {
            _ if !self.rules.asks(self.family) => QuestionStatus::NotAsked,
            Some(_) if self.is_given_up(now) => QuestionStatus::GivenUp,
            Some(_) => QuestionStatus::Failing,
            None if answer.is_some() => QuestionStatus::Answered,
            None if state.denied && is_in_use => QuestionStatus::Denied,
            None if state.attempted => QuestionStatus::Expired,
            None => QuestionStatus::Unasked,
        };
        FamilyHealth {
            family: self.family,
            state: status,
            addresses: answer.map_or_else(Vec::new, |answer| answer.addresses.to_vec()),
            ttl: answer.map(|answer| answer.ttl),
            answered_at: answer.map(|answer| answer.answered_at),
            dropped: state.dropped.clone(),
            failing_since: failing.map(|failing| failing.since),
            last_error: failing.map(|failing| failing.error.clone()),
        }
    }

    fn is_given_up(self, now: Instant) -> bool {
        self.given_up().is_some_and(|span| span.contains(now))
    }
}
