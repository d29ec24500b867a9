//! What the operator sees: events and metrics, and how many of them.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    net::{IpAddr, Ipv6Addr},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use moka::sync::Cache;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::{
    AllowSet, Allowed, Family, Question, Rejection, RejectionKind, ResolveError,
    set::{Notice, Standing},
};

/// Refused peers, so that each is logged once a minute and a flood cannot fill a disk.
pub(crate) struct RefusalLog {
    logged: Cache<IpAddr, Instant>,
    epoch: Instant,
    /// The second since the epoch, and how many events it has seen: `second << 8 | events`.
    window: AtomicU64,
    left_out: AtomicU64,
}

impl RefusalLog {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            logged: Cache::new(PEERS_REMEMBERED),
            epoch: now,
            window: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
        }
    }

    /// How many refusals were left out before this one, if it is to be logged.
    pub(crate) fn admits(&self, peer: Option<IpAddr>, now: Instant) -> Option<u64> {
        let admitted = self.has_room(now) && self.is_new(peer, now) && self.takes_room(now);
        if admitted {
            return Some(self.left_out.swap(0, Ordering::Relaxed));
        }
        self.left_out.fetch_add(1, Ordering::Relaxed);
        None
    }

    fn has_room(&self, now: Instant) -> bool {
        let window = self.window.load(Ordering::Relaxed);
        window >> 8 != self.second(now) || window & 0xff < EVENTS_A_SECOND
    }

    fn takes_room(&self, now: Instant) -> bool {
        let second = self.second(now);
        let take = |window: u64| match (window >> 8 == second, window & 0xff) {
            (false, _) => Some(second << 8 | 1),
            (true, events) if events < EVENTS_A_SECOND => Some(window + 1),
            (true, _) => None,
        };
        self.window
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }

    fn is_new(&self, peer: Option<IpAddr>, now: Instant) -> bool {
        let peer = match peer {
            Some(IpAddr::V6(peer)) => IpAddr::V6(Ipv6Addr::from(peer.to_bits() & PREFIX_64)),
            Some(peer) => peer,
            None => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let before = self.logged.get(&peer);
        if before.is_some_and(|logged| now.saturating_duration_since(logged) < ONCE_A_MINUTE) {
            return false;
        }
        self.logged.insert(peer, now);
        true
    }

    /// Counted from one, so that the first second differs from a window never used.
    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_secs() + 1
    }
}

pub(crate) fn allowed(allowed: &Allowed) {
    debug!(
        target: TARGET,
        peer = %allowed.peer(),
        host = allowed.host().map(tracing::field::display),
        network = allowed.network().map(tracing::field::display),
        freshness = allowed.freshness().as_str(),
        "callback admitted"
    );
    #[cfg(feature = "metrics")]
    metrics::counter!("callback_source_verdicts_total", "verdict" => "allow").increment(1);
}

/// `hosts` is called only if there is something to log.
pub(crate) fn refused(
    rejection: &Rejection,
    tagged: bool,
    log: &RefusalLog,
    hosts: impl FnOnce() -> String,
    now: Instant,
) {
    #[cfg(feature = "metrics")]
    metrics::counter!("callback_source_verdicts_total", "verdict" => rejection.kind().as_str())
        .increment(1);
    let Some(left_out) = log.admits(rejection.peer(), now) else {
        return;
    };
    if rejection.kind() == RejectionKind::NoPeer {
        error!(
            target: TARGET,
            left_out,
            "a request carries no peer address, so every callback is refused; with axum serve \
             `app.into_make_service_with_connect_info::<SocketAddr>()` and use `ConnectInfoPeer`, \
             otherwise put the `SocketAddr` into the request's extensions and use `SocketAddrPeer`"
        );
        return;
    }
    let what = if tagged {
        "let through with a tag"
    } else {
        "refused"
    };
    warn!(
        target: TARGET,
        peer = rejection.peer().map(tracing::field::display),
        reason = rejection.kind().as_str(),
        hosts = hosts(),
        left_out,
        "callback {what}"
    );
}

#[cfg(feature = "signature")]
pub(crate) fn proven(signed: &crate::signature::VerifiedMessage) {
    debug!(target: TARGET, proof = ?signed.auth(), "callback proven");
    #[cfg(feature = "metrics")]
    metrics::counter!("callback_source_proofs_total", "verdict" => "valid").increment(1);
}

#[cfg(feature = "signature")]
pub(crate) fn unproven(
    rejection: &crate::signature::MessageRejection,
    peer: Option<IpAddr>,
    tagged: bool,
    log: &RefusalLog,
    now: Instant,
) {
    #[cfg(feature = "metrics")]
    metrics::counter!("callback_source_proofs_total", "verdict" => rejection.kind().as_str())
        .increment(1);
    let Some(left_out) = log.admits(peer, now) else {
        return;
    };
    warn!(
        target: TARGET,
        peer = peer.map(tracing::field::display),
        reason = rejection.kind().as_str(),
        header = rejection.header(),
        cause = std::error::Error::source(rejection).map(tracing::field::display),
        tagged,
        left_out,
        "callback not proven"
    );
}

/// Said once: it shows with the first request that anybody makes.
#[cfg(feature = "signature")]
pub(crate) fn no_layer() {
    static SAID: std::sync::Once = std::sync::Once::new();
    SAID.call_once(|| {
        error!(
            target: TARGET,
            "a policy asks for a verdict that no layer gave, so every callback is refused; put \
             `RequireVerifiedLayer` inside of `VerifySourceLayer` and of `VerifySignatureLayer` or \
             `VerifyTokenLayer`"
        );
    });
}

/// Reports how the header of a PROXY protocol connection was read, or why not.
#[cfg(feature = "proxy-protocol")]
pub(crate) fn proxy_header(
    outcome: Result<&'static str, &'static str>,
    peer: IpAddr,
    log: &RefusalLog,
    now: Instant,
) {
    #[cfg(feature = "metrics")]
    {
        let outcome = outcome.unwrap_or_else(|reason| reason);
        metrics::counter!("callback_source_proxy_headers_total", "outcome" => outcome).increment(1);
    }
    let Err(reason) = outcome else {
        return;
    };
    if let Some(left_out) = log.admits(Some(peer), now) {
        warn!(
            target: TARGET,
            %peer,
            reason,
            left_out,
            "connection of a trusted proxy closed: no header of the PROXY protocol"
        );
    }
}

/// Reports what happens to a set; a question that keeps failing is reported now and then only.
#[derive(Debug, Default)]
pub(crate) struct NoticeLog {
    failures: HashMap<Question, Instant>,
    dropped: HashMap<Question, Instant>,
    given_up: HashMap<Question, Instant>,
    /// The questions of whose failure was told, and not yet of its end.
    failing: HashSet<Question>,
}

impl NoticeLog {
    pub(crate) fn report(&mut self, notices: &[Notice], set: &AllowSet, now: Instant) {
        if !notices.is_empty() {
            let hosts: HashSet<_> = set.hosts().collect();
            let is_kept = |question: &Question| hosts.contains(&question.host);
            for told in [&mut self.failures, &mut self.dropped, &mut self.given_up] {
                told.retain(|question, _| is_kept(question));
            }
            self.failing.retain(is_kept);
        }
        for notice in notices {
            match notice {
                Notice::Changed(change) => {
                    info!(
                        target: TARGET,
                        host = %change.host,
                        added = ?change.added,
                        removed = ?change.removed,
                        "callback servers changed"
                    );
                    #[cfg(feature = "metrics")]
                    metrics::counter!("callback_source_changes_total").increment(1);
                }
                Notice::Failed {
                    question,
                    error,
                    times,
                } => {
                    let standing = set.standing(question, now);
                    self.failed(question, error, *times, standing, now);
                    self.given_up(question, standing, now);
                }
                Notice::Recovered {
                    question,
                    failing_since,
                } => {
                    let failed_for = now.saturating_duration_since(*failing_since);
                    // The time of the failure stays: what flaps is not told at each turn.
                    if self.failing.remove(question) {
                        info!(target: TARGET, %question, ?failed_for, "look-up works again");
                    }
                    self.given_up.remove(question);
                }
                Notice::Dropped {
                    question,
                    addresses,
                } => {
                    if Self::is_time(&mut self.dropped, question, ONCE_IN_TEN_MINUTES, now) {
                        warn!(
                            target: TARGET,
                            %question,
                            ?addresses,
                            "special-purpose addresses in an answer are not admitted"
                        );
                    }
                }
                Notice::LingerLimitReached { host, dropped } => {
                    warn!(
                        target: TARGET,
                        %host,
                        dropped,
                        "more addresses of one host linger than the limit; the oldest are no longer admitted"
                    );
                }
            }
        }
    }

    /// Logs once a day that a question is given up.
    fn given_up(&mut self, question: &Question, standing: Option<Standing>, now: Instant) {
        if standing == Some(Standing::GivenUp)
            && Self::is_time(&mut self.given_up, question, ONCE_A_DAY, now)
        {
            warn!(
                target: TARGET,
                %question,
                "this look-up has failed for the whole stale window and is given up; remove the host \
                 if it is gone for good"
            );
        }
    }

    fn failed(
        &mut self,
        question: &Question,
        error: &ResolveError,
        times: u32,
        standing: Option<Standing>,
        now: Instant,
    ) {
        // The first round asks everything at once: a denial that comes in before the first answer is
        // believed a moment later.
        if error.is_denial() && times == 1 {
            debug!(target: TARGET, %question, %error, "denial not believed yet");
            return;
        }
        if !Self::is_time(&mut self.failures, question, ONCE_IN_TEN_MINUTES, now) {
            return;
        }
        self.failing.insert(question.clone());
        let cause = std::error::Error::source(error).map(tracing::field::display);
        let family = question.family;
        let meanwhile = Meanwhile {
            standing,
            family,
            now,
        };
        if error.is_denial() {
            warn!(
                target: TARGET,
                %question,
                reason = error.kind().as_str(),
                times,
                "DNS denies this host, and no later answer of another host confirms that; {meanwhile}"
            );
        } else {
            warn!(
                target: TARGET,
                %question,
                reason = error.kind().as_str(),
                cause,
                times,
                "look-up failed; {meanwhile}: {error}"
            );
        }
    }

    fn is_time(
        told: &mut HashMap<Question, Instant>,
        question: &Question,
        pause: Duration,
        now: Instant,
    ) -> bool {
        let before = told.get(question);
        let is_time = before.is_none_or(|told| pause <= now.saturating_duration_since(*told));
        if is_time {
            told.insert(question.clone(), now);
        }
        is_time
    }
}

/// What callers get while a question fails.
struct Meanwhile {
    standing: Option<Standing>,
    family: Family,
    now: Instant,
}

impl fmt::Display for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peers = match self.family {
            Family::V4 => "IPv4 peers that are not listed otherwise get 503",
            Family::V6 => "IPv6 peers that are not listed otherwise get 503",
        };
        match self.standing {
            Some(Standing::InUse { until, restored }) => {
                let left = until.saturating_duration_since(self.now).as_secs();
                let which = match restored {
                    true => "the answer from the state file",
                    false => "the previous answer",
                };
                write!(f, "{which} stays in use for another {left} s")
            }
            Some(Standing::Unknown) => write!(f, "no answer is known yet, so {peers}"),
            Some(Standing::Over) => write!(f, "no answer is in use any more, so {peers}"),
            Some(Standing::GivenUp) | None => f.write_str("verdicts are made without this host"),
        }
    }
}

/// Counts the outcome of a look-up and gauges the set.
#[cfg(feature = "metrics")]
pub(crate) fn looked_up(outcome: Result<(), &ResolveError>, set: &AllowSet, now: Instant) {
    let outcome = outcome.map_or_else(|error| error.kind().as_str(), |()| "answer");
    metrics::counter!("callback_source_lookups_total", "outcome" => outcome).increment(1);
    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    metrics::gauge!("callback_source_addresses").set(set.addresses(now).len() as f64);
    let health = set.health(now);
    let answers = health.iter().flat_map(|host| &host.families);
    let oldest = answers.filter_map(|family| family.answered_at).min();
    let age = oldest.map_or(Duration::ZERO, |oldest| {
        now.saturating_duration_since(oldest)
    });
    metrics::gauge!("callback_source_oldest_answer_age_seconds").set(age.as_secs_f64());
}

pub(crate) const TARGET: &str = "callback_source";

const EVENTS_A_SECOND: u64 = 10;
const PEERS_REMEMBERED: u64 = 10_000;
const ONCE_A_MINUTE: Duration = Duration::from_secs(60);
const ONCE_IN_TEN_MINUTES: Duration = Duration::from_secs(10 * 60);
const ONCE_A_DAY: Duration = Duration::from_secs(24 * 60 * 60);
const PREFIX_64: u128 = !(u64::MAX as u128);

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u64) -> Option<IpAddr> {
        Some(IpAddr::V4(
            (u32::try_from(number).unwrap() + 0x1400_0000).into(),
        ))
    }

    #[test]
    fn a_refused_peer_is_logged_once_a_minute_with_the_count_of_those_left_out() {
        let start = Instant::now();
        let log = RefusalLog::new(start);
        assert_eq!(log.admits(peer(1), start), Some(0));
        for second in 0..60 {
            assert_eq!(
                log.admits(peer(1), start + Duration::from_secs(second)),
                None
            );
        }
        assert_eq!(log.admits(peer(1), start + ONCE_A_MINUTE), Some(60));
    }

    #[test]
    fn a_question_that_flaps_is_told_once_in_ten_minutes_and_hosts_that_left_are_forgotten() {
        let start = Instant::now();
        let host: crate::HostName = "a.test".parse().unwrap();
        let mut set = AllowSet::new(Default::default(), [host.clone()], &[], start).unwrap();
        let mut log = NoticeLog::default();
        let question = Question {
            host,
            family: Family::V4,
        };
        let mut told = 0;
        for second in 0..3600 {
            let now = start + Duration::from_secs(second);
            let failed = Err(ResolveError::new(crate::ResolveErrorKind::ServFail));
            log.report(&set.apply(&question, failed, now), &set, now);
            told += usize::from(log.failing.contains(&question));
            let address = "20.0.0.1".parse().unwrap();
            let answer = crate::Answer::new([address], Duration::from_secs(1));
            log.report(&set.apply(&question, Ok(answer), now), &set, now);
            assert!(log.failing.is_empty());
        }
        assert_eq!(told, 6);
        let notices = set.replace_hosts([], start);
        log.report(&notices, &set, start);
        assert!(log.failures.is_empty());
    }

    #[test]
    fn a_failure_is_logged_with_what_stays_in_use() {
        let start = Instant::now();
        let host: crate::HostName = "a.test".parse().unwrap();
        let question = Question {
            host: host.clone(),
            family: Family::V4,
        };
        let mut set = AllowSet::new(Default::default(), [host], &[], start).unwrap();
        let after = |seconds| start + Duration::from_secs(seconds);
        let meanwhile = |set: &mut AllowSet, now| {
            let failed = Err(ResolveError::new(crate::ResolveErrorKind::ServFail));
            set.apply(&question, failed, now);
            let standing = set.standing(&question, now);
            Meanwhile {
                standing,
                family: question.family,
                now,
            }
            .to_string()
        };
        assert_eq!(
            meanwhile(&mut set, start),
            "no answer is known yet, so IPv4 peers that are not listed otherwise get 503"
        );
        let address = "20.0.0.1".parse().unwrap();
        let answer = crate::Answer::new([address], Duration::from_secs(60));
        set.apply(&question, Ok(answer), after(10));
        assert_eq!(
            meanwhile(&mut set, after(70)),
            "the previous answer stays in use for another 86400 s"
        );
        let mut again =
            AllowSet::new(Default::default(), set.hosts().cloned(), &[], start).unwrap();
        again.restore(set.save(), after(80));
        assert_eq!(
            meanwhile(&mut again, after(80)),
            "the answer from the state file stays in use for another 86390 s"
        );
        assert_eq!(
            meanwhile(&mut again, after(86_470)),
            "no answer is in use any more, so IPv4 peers that are not listed otherwise get 503"
        );
    }

    #[test]
    fn ipv6_peers_count_by_their_64_bit_prefix() {
        let start = Instant::now();
        let log = RefusalLog::new(start);
        let admits = |text: &str| log.admits(Some(text.parse().unwrap()), start).is_some();
        assert!(admits("2a01:1:2:3::1"));
        assert!(!admits("2a01:1:2:3:ffff::2"));
        assert!(admits("2a01:1:2:4::1"));
    }

    #[test]
    fn no_flood_is_logged_faster_than_ten_a_second() {
        let start = Instant::now();
        let log = RefusalLog::new(start);
        let mut logged = 0;
        let mut left_out = 0;
        for number in 0..20_000 {
            let now = start + Duration::from_millis(number / 2);
            if let Some(count) = log.admits(peer(number), now) {
                logged += 1;
                left_out += count;
            }
        }
        assert_eq!(logged, 100, "ten seconds");
        assert!(
            logged + left_out <= 20_000 && left_out > 17_000,
            "{left_out}"
        );
    }

    #[test]
    fn refusals_without_a_peer_are_limited_as_if_from_one() {
        let start = Instant::now();
        let log = RefusalLog::new(start);
        assert_eq!(log.admits(None, start), Some(0));
        assert_eq!(log.admits(None, start), None);
    }

    #[test]
    fn a_flood_of_peers_holds_no_more_memory_than_the_bound() {
        let start = Instant::now();
        let log = RefusalLog::new(start);
        for number in 0..4 * PEERS_REMEMBERED {
            let second = Duration::from_secs(number / EVENTS_A_SECOND);
            log.admits(peer(number), start + second);
        }
        log.logged.run_pending_tasks();
        assert!(log.logged.entry_count() <= PEERS_REMEMBERED);
    }
}
