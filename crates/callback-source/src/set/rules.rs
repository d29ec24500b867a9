//! Windows and bounds of a set, and the times that are computed from them.

use std::time::{Duration, Instant};

use super::after;
use crate::{Family, ResolveError};

/// Windows and bounds of an [`AllowSet`](super::AllowSet).
///
/// [`AllowListBuilder`](crate::AllowListBuilder) has a method for each of these fields. The method explains the purpose
/// of the field. For a set without a list, the caller assigns the fields directly, and no method checks them:
///
/// ```
/// use std::time::{Duration, Instant};
/// use callback_source::{AllowSet, set::Rules};
///
/// let mut rules = Rules::default();
/// rules.linger = Duration::from_secs(30 * 60);
/// assert_eq!(rules.stale_for, Duration::from_secs(24 * 60 * 60));
/// let set = AllowSet::new(rules, ["callbacks.example.com".parse()?], &[], Instant::now())?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rules {
    /// Minimum TTL of an answer or denial. A lower TTL is raised to this minimum. Default 5 s.
    pub min_ttl: Duration,
    /// Maximum TTL of an answer or denial. A higher TTL is lowered to this maximum. Default 1 h.
    pub max_ttl: Duration,
    /// Linger window: the time for which an address stays admitted after it left the answer. It stays admitted at
    /// least until the answer that omits it has been refreshed. Zero turns lingering off. Default 1 h.
    pub linger: Duration,
    /// Stale window: the time for which the last valid answer stays in use after the end of its TTL while the question
    /// fails. Default 24 h.
    pub stale_for: Duration,
    /// Longest pause between two lookups of a failing question. Default 60 s.
    pub max_backoff: Duration,
    /// Maximum number of addresses in an answer. Default 256.
    pub max_addresses: usize,
    /// Maximum number of addresses of one host that linger at the same time. Default 1,024.
    pub max_lingering: usize,
    /// Time limit of a lookup. An expired answer stays in use for 1.5 s more than this limit while it is refreshed.
    /// Default 5 s.
    pub question_time_limit: Duration,
    /// The only family that is looked up, or `None` for both families. Peers of the other family are
    /// [`NotListed`](crate::RejectionKind::NotListed), unless they are in a static network. Default `None`.
    pub only_family: Option<Family>,
    /// Admits special-purpose addresses (loopback, private, documentation …) from answers. Set it only in tests.
    /// Default `false`.
    pub insecure_allow_special_addresses: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            min_ttl: Duration::from_secs(5),
            max_ttl: Duration::from_secs(60 * 60),
            linger: Duration::from_secs(60 * 60),
            stale_for: Duration::from_secs(24 * 60 * 60),
            max_backoff: Duration::from_secs(60),
            max_addresses: 256,
            max_lingering: 1024,
            question_time_limit: Duration::from_secs(5),
            only_family: None,
            insecure_allow_special_addresses: false,
        }
    }
}

impl Rules {
    /// Clamps a TTL to the bounds. If the minimum exceeds the maximum, the minimum applies.
    pub(super) fn clamp(&self, ttl: Duration) -> Duration {
        ttl.min(self.max_ttl).max(self.min_ttl)
    }

    /// Returns the longest time that a refresh can take after the TTL has ended.
    pub(super) fn refresh_time(&self) -> Duration {
        let begins = LAST_SECOND + MAX_JITTER;
        begins.saturating_add(self.question_time_limit)
    }

    /// Returns the time at which an address that left the answer at `left_at` stops lingering.
    ///
    /// `ttl_ends` is the end of the TTL of the answer or believed denial that omits the address. The address lingers at
    /// least until the refresh that follows `ttl_ends` has ended. Otherwise a single answer that omits the address
    /// would remove it, even if the next answer contains the address again.
    pub(super) fn linger_until(&self, left_at: Instant, ttl_ends: Instant) -> Instant {
        #[cfg(callback_source_simulation)]
        if crate::simulation::planted(crate::simulation::Fault::LingerWithoutRefresh) {
            return after(left_at, self.linger);
        }
        after(left_at, self.linger).max(after(ttl_ends, self.refresh_time()))
    }

    /// Returns the end of the TTL of a believed denial. If addresses of the question linger, the TTL is at most a
    /// quarter of the linger window, but not less than the minimum TTL.
    pub(super) fn denied_until(
        &self,
        error: &ResolveError,
        denied_at: Instant,
        lingers: bool,
    ) -> Instant {
        let ttl = self.clamp(error.negative_ttl().unwrap_or(NEGATIVE_TTL));
        let most = match lingers {
            true => (self.linger / 4).max(self.min_ttl),
            false => ttl,
        };
        after(denied_at, ttl.min(most))
    }

    /// Returns the pause after a question has failed `times` times in a row. The pause doubles with each failure, up to
    /// `max_backoff`, but is never shorter than `min_ttl` or 1 s.
    pub(super) fn backoff(&self, times: u32) -> Duration {
        let first = self.min_ttl.max(MIN_BACKOFF);
        first
            .saturating_mul(1 << (times - 1).min(16))
            .min(self.max_backoff)
            .max(first)
    }

    /// Returns the deadline for the next outcome of a failing question: a later outcome follows a gap. The question
    /// failed at `failed_at` and is due at `due_at`. A gap is a time in which a due question was not asked, for example
    /// because the machine was suspended or the refresher was late.
    pub(super) fn next_outcome_by(&self, failed_at: Instant, due_at: Instant) -> Instant {
        let pause = self.max_ttl.min(self.stale_for / 4);
        after(due_at, self.refresh_time()).max(after(failed_at, pause))
    }

    pub(super) fn asks(&self, family: Family) -> bool {
        self.only_family.is_none_or(|only| only == family)
    }

    /// Returns the families that are looked up.
    pub(super) fn families(&self) -> impl Iterator<Item = Family> + use<> {
        let only = self.only_family;
        let asked = move |family: &Family| only.is_none_or(|only| only == *family);
        Family::ALL.into_iter().filter(asked)
    }
}

/// Time for which a DNS server can still return records whose TTL has ended by the local clock. A refresh that is not
/// on demand starts at least this long after the end of the TTL.
pub(crate) const LAST_SECOND: Duration = Duration::from_secs(1);

/// Maximum random delay before a refresh.
pub(crate) const MAX_JITTER: Duration = Duration::from_millis(500);

const MIN_BACKOFF: Duration = Duration::from_secs(1);

/// TTL of a denial without an SOA record.
const NEGATIVE_TTL: Duration = Duration::from_secs(60);
