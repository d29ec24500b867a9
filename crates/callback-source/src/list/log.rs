//! Log events of a list: changes, failed lookups, recoveries.
//!
//! In an outage, every question can fail repeatedly for hours. Each question has its own rate limit, so that the
//! failure of one question does not hide the failure of another question. A recovery is logged only if the failure was
//! logged.

use std::{
    collections::HashSet,
    fmt,
    net::IpAddr,
    time::{Duration, Instant},
};

use tracing::{debug, error, info, warn};

use crate::{
    AllowSet, Family, HostName, LOG_TARGET, Question, ResolveError,
    list::refused::Refusals,
    rate_limit::KeyedRateLimit,
    set::{Notice, Standing},
    vipps,
};

/// Logs the notices of a set. The notices about each question are rate-limited.
#[derive(Debug, Default)]
pub(crate) struct NoticeLog {
    failures: KeyedRateLimit<Question>,
    dropped: KeyedRateLimit<Question>,
    given_up: KeyedRateLimit<Question>,
    /// The questions whose failure was logged and whose recovery has not been logged yet.
    failing: HashSet<Question>,
}

impl NoticeLog {
    pub(crate) fn report(&mut self, notices: &[Notice], set: &AllowSet, now: Instant) {
        if !notices.is_empty() {
            let hosts: HashSet<_> = set.hosts().collect();
            let is_kept = |question: &Question| hosts.contains(&question.host);
            for limit in [&mut self.failures, &mut self.dropped, &mut self.given_up] {
                limit.retain(is_kept);
            }
            self.failing.retain(is_kept);
        }
        for notice in notices {
            match notice {
                Notice::Changed(change) => {
                    info!(
                        target: LOG_TARGET,
                        host = %change.host,
                        added = ?change.added,
                        removed = ?change.removed,
                        "callback servers changed"
                    );
                }
                // If the change concerns a refused peer, `Shared::report_refused` logs a warning.
                Notice::WatchedChanged(change) => {
                    debug!(target: LOG_TARGET, host = %change.host, "watched host changed");
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
                    // The rate limit of the failure is not reset, so that a flapping question does not fill the log.
                    if self.failing.remove(question) {
                        info!(target: LOG_TARGET, %question, ?failed_for, "lookup works again");
                    }
                    self.given_up.forget(question);
                }
                Notice::Dropped {
                    question,
                    addresses,
                } => {
                    if self.dropped.admits(question, ONCE_IN_TEN_MINUTES, now) {
                        warn!(
                            target: LOG_TARGET,
                            %question,
                            ?addresses,
                            "special-purpose addresses in an answer are not admitted"
                        );
                    }
                }
                Notice::LingerLimitReached { host, dropped } => {
                    warn!(
                        target: LOG_TARGET,
                        %host,
                        dropped,
                        "more addresses of one host linger than the limit; the oldest are no longer admitted"
                    );
                }
            }
        }
    }

    /// Logs that a question is given up, at most once a day until the question recovers.
    fn given_up(&mut self, question: &Question, standing: Option<Standing>, now: Instant) {
        if standing == Some(Standing::GivenUp) && self.given_up.admits(question, ONCE_A_DAY, now) {
            warn!(
                target: LOG_TARGET,
                %question,
                "this lookup has failed for the whole stale window and is given up; remove the host if it no \
                 longer exists"
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
        // At the start, all questions are asked at the same time. A denial that arrives before the first answer is
        // usually believed once that answer arrives.
        if error.is_denial() && times == 1 {
            debug!(target: LOG_TARGET, %question, %error, "denial not believed yet");
            return;
        }
        if !self.failures.admits(question, ONCE_IN_TEN_MINUTES, now) {
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
                target: LOG_TARGET,
                %question,
                reason = error.kind().as_str(),
                times,
                "DNS denies this host, and no later answer of another host confirms it; {meanwhile}"
            );
        } else {
            warn!(
                target: LOG_TARGET,
                %question,
                reason = error.kind().as_str(),
                cause,
                times,
                "lookup failed; {meanwhile}: {error}"
            );
        }
    }
}

/// Effect on peers while a question fails, for a log line.
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

/// Logs the error that this crate exists to prevent: a callback server was refused.
pub(crate) fn refused_then_listed(address: IpAddr, host: &HostName, refusals: Refusals) {
    let Refusals {
        times,
        first_ago,
        last_ago,
    } = refusals;
    error!(
        target: LOG_TARGET,
        %host,
        %address,
        times,
        ?first_ago,
        ?last_ago,
        "this address was refused, and is now listed: check the callbacks of that time with the provider"
    );
}

/// Logs that a refused peer is a server of a watched host. The answer about that host arrived after the refusal.
pub(crate) fn refused_by_watching_list(explanation: &str) {
    warn!(target: LOG_TARGET, "a refused peer is a server of another environment: {explanation}");
}

pub(crate) fn lost_refresher() {
    error!(
        target: LOG_TARGET,
        "the refresher has ended while its list is in use, so no host is looked up any more; spawn the list, or run \
         its `Refresher`, on a runtime that lives as long as the list"
    );
}

const ONCE_IN_TEN_MINUTES: Duration = Duration::from_secs(10 * 60);
const ONCE_A_DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Logs a warning if the hosts include a primary server of production, but not all servers for disaster recovery.
pub(crate) fn no_disaster_recovery(hosts: &[HostName]) {
    if vipps::lacks_disaster_recovery(hosts) {
        warn!(
            target: LOG_TARGET,
            "the hosts include callback servers of production, but not all of those for disaster \
             recovery, so callbacks will be refused when the provider switches to them; use the \
             environment `production`"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flapping_question_is_logged_once_in_ten_minutes_and_removed_hosts_are_forgotten() {
        let start = tokio::time::Instant::now().into_std();
        let host: HostName = "a.test".parse().unwrap();
        let mut set = AllowSet::new(Default::default(), [host.clone()], &[], start).unwrap();
        let mut log = NoticeLog::default();
        let question = Question {
            host,
            family: Family::V4,
        };
        let mut logged = 0;
        for second in 0..3600 {
            let now = start + Duration::from_secs(second);
            let failed = Err(ResolveError::new(crate::ResolveErrorKind::ServFail));
            log.report(&set.apply(&question, failed, now), &set, now);
            logged += usize::from(log.failing.contains(&question));
            let address = "20.0.0.1".parse().unwrap();
            let answer = crate::Answer::new([address], Duration::from_secs(1));
            log.report(&set.apply(&question, Ok(answer), now), &set, now);
            assert!(log.failing.is_empty());
        }
        assert_eq!(logged, 6);
        let notices = set.replace_hosts([], start);
        log.report(&notices, &set, start);
        assert!(log.failures.admits(&question, ONCE_IN_TEN_MINUTES, start));
    }

    #[test]
    fn a_failure_is_logged_with_what_stays_in_use() {
        let start = tokio::time::Instant::now().into_std();
        let host: HostName = "a.test".parse().unwrap();
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
}
