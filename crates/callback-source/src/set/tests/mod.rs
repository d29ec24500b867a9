//! Tests of the whole set, with one module for each rule or topic.

mod answer;
mod back_off;
mod bad_answers;
mod denial;
mod families;
mod given_up;
mod linger;
mod notices;
mod order;
mod readiness;
mod replacing_hosts;
mod replacing_networks;
mod reports;
mod restoring;
mod stale;
mod verdicts;
mod watched;

use super::*;
use crate::ResolveErrorKind;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const MS: Duration = Duration::from_millis(1);

/// A set of hosts `h0.psp.test`, `h1.psp.test` …, a clock that starts at zero, and short methods to apply outcomes.
struct World {
    set: AllowSet,
    start: Instant,
    now: Instant,
}

impl World {
    fn new(hosts: usize) -> Self {
        Self::with(hosts, Rules::default())
    }

    fn with(hosts: usize, rules: Rules) -> Self {
        let now = now();
        let set = AllowSet::new(rules, (0..hosts).map(host), &[], now).unwrap();
        Self {
            set,
            start: now,
            now,
        }
    }

    /// Returns a set with these rules and hosts, after a restart at `now` that restored the state.
    fn restarted(
        &self,
        rules: Rules,
        hosts: impl IntoIterator<Item = HostName>,
        now: Instant,
    ) -> Self {
        let mut set = AllowSet::new(rules, hosts, &[], now).unwrap();
        set.restore(self.set.save(), now);
        Self {
            set,
            start: self.start,
            now,
        }
    }

    fn at(&mut self, since_start: Duration) -> &mut Self {
        self.now = self.start + since_start;
        self
    }

    fn apply(
        &mut self,
        number: usize,
        family: Family,
        outcome: Result<Answer, ResolveError>,
    ) -> Vec<Notice> {
        let question = question(number, family);
        self.set.apply(&question, outcome, self.now)
    }

    fn answer(&mut self, number: usize, family: Family, ttl: u64, addresses: &[&str]) {
        self.apply(number, family, Ok(answer(ttl, addresses)));
    }

    fn fail(&mut self, number: usize, family: Family, kind: ResolveErrorKind) {
        self.apply(number, family, Err(ResolveError::new(kind)));
    }

    /// Applies outcomes for all hosts: an answer with the host's own IPv4 address, and a denial of AAAA records.
    fn answer_each(&mut self, ttl: u64) {
        for number in 0..self.set.hosts.len() {
            self.answer(number, Family::V4, ttl, &[&own_address(number)]);
        }
        for number in 0..self.set.hosts.len() {
            self.fail(number, Family::V6, ResolveErrorKind::NoData);
        }
    }

    fn verdict(&self, peer: &str) -> &'static str {
        match self.set.verdict(peer.parse().unwrap(), self.now) {
            Verdict::Allow(allowed) => allowed.freshness().as_str(),
            Verdict::Reject(rejection) => rejection.kind().as_str(),
        }
    }

    fn due_in(&self, number: usize, family: Family) -> Duration {
        let question = question(number, family);
        let (_, due_at) = self
            .set
            .questions()
            .find(|(due, _)| *due == question)
            .unwrap();
        due_at - self.now
    }

    fn state(&self, number: usize, family: Family) -> QuestionStatus {
        self.set.health(self.now)[number].families[family as usize].state
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn host(number: usize) -> HostName {
    format!("h{number}.psp.test").parse().unwrap()
}

fn question(number: usize, family: Family) -> Question {
    Question {
        host: host(number),
        family,
    }
}

fn own_address(number: usize) -> String {
    format!("20.0.{number}.1")
}

fn answer(ttl: u64, addresses: &[&str]) -> Answer {
    Answer::new(
        addresses.iter().map(|text| text.parse().unwrap()),
        Duration::from_secs(ttl),
    )
}

fn changes(notices: &[Notice]) -> Vec<(String, usize, usize)> {
    let change = |notice: &Notice| match notice {
        Notice::Changed(change) => Some((
            change.host.to_string(),
            change.added.len(),
            change.removed.len(),
        )),
        _ => None,
    };
    notices.iter().filter_map(change).collect()
}

const FAILURES: [ResolveErrorKind; 9] = [
    ResolveErrorKind::ServFail,
    ResolveErrorKind::Refused,
    ResolveErrorKind::ErrorCode,
    ResolveErrorKind::Timeout,
    ResolveErrorKind::Network,
    ResolveErrorKind::Malformed,
    ResolveErrorKind::Truncated,
    ResolveErrorKind::Bogus,
    ResolveErrorKind::BrokenChain,
];
