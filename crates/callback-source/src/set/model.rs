//! The rules of [`AllowSet`](super::AllowSet) a second time, and random schedules that compare the
//! two.
//!
//! [`Model`] is written from the rules and shares no code with the set: it has no index, announces
//! nothing, and works out every verdict from what was said last. It is slow and meant to be
//! obviously right.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter,
    net::IpAddr,
    sync::LazyLock,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use proptest::{
    prelude::*,
    sample::{select, subsequence},
    test_runner::{Config, FileFailurePersistence, RngAlgorithm},
};

use super::{AllowSet, Notice, QuestionStatus, Rules};
use crate::{
    Answer, Family, Freshness, HostName, Question, RejectionKind, ResolveError, ResolveErrorKind,
    Verdict,
};

use ResolveErrorKind::{
    Bogus, BrokenChain, NoData, NxDomain, Other, ServFail, Timeout, TooManyAddresses, Truncated,
};

proptest! {
    #![proptest_config(config(2048))]

    #[test]
    fn the_set_and_the_model_agree_after_every_step(
        rules in rules(),
        setting in setting(),
        steps in prop::collection::vec(step(), 1..=60),
    ) {
        let mut trial = Trial::new(rules, &setting);
        trial.check();
        for step in steps {
            trial.take(&step);
            trial.check();
        }
    }
}

proptest! {
    #![proptest_config(config(1024))]

    #[test]
    fn the_order_of_outcomes_within_one_instant_does_not_matter(
        rules in rules(),
        setting in setting(),
        steps in prop::collection::vec(step(), 0..=12),
        advance in advance(),
        mut batch in batch(),
    ) {
        // The order does matter to the cap on lingering, which sees one answer at a time, and where
        // an unbelieved denial ends the window at once, so that nothing is left to linger.
        let rules = Rules {
            max_lingering: usize::MAX,
            stale_for: rules.stale_for.max(refresh(&rules)),
            ..rules
        };
        let mut trial = Trial::new(rules, &setting);
        for mut step in steps {
            step.keep_families_apart();
            step.keep_rules();
            trial.take(&step);
        }
        trial.advance(advance);
        for (_, outcome) in &mut batch {
            outcome.keep_families_apart();
        }
        // What becomes of a denial that waits for evidence depends on which comes first: the evidence,
        // another outcome about the host, or a denial for which that host is the evidence.
        let waiting = trial.model.waiting();
        batch.retain(|(asked, outcome)| {
            let denies = outcome.outcome(asked.family).is_err_and(|error| error.is_denial());
            !waiting.contains(&asked.question().host) && (waiting.is_empty() || !denies)
        });

        let mut forth = trial.set.clone();
        let mut back = trial.set.clone();
        batch.retain(|(asked, _)| trial.model.asks(asked.family));
        for (question, outcome) in &batch {
            let (question, outcome) = (question.question(), outcome.outcome(question.family));
            let _ = forth.apply(&question, outcome.clone(), trial.now);
            trial.model.apply(&question, &outcome, trial.now);
        }
        for (question, outcome) in batch.iter().rev() {
            let outcome = outcome.outcome(question.family);
            let _ = back.apply(&question.question(), outcome, trial.now);
        }

        let mut times = trial.model.boundaries();
        times.push(trial.now);
        times.retain(|time| *time >= trial.now);
        for time in times {
            for address in EVERYBODY.iter().copied() {
                prop_assert_eq!(
                    outline(&forth.verdict(address, time)),
                    outline(&back.verdict(address, time)),
                    "{} after {:?}", address, time - trial.now
                );
            }
            prop_assert_eq!(forth.is_ready(time), back.is_ready(time));
        }
        prop_assert!(forth.questions().eq(back.questions()));
    }
}

// What the comparison has found.

#[test]
fn an_answer_of_the_same_instant_outlives_nxdomain_for_the_other_family() {
    let (mut set, now) = set_of_two(Rules::default());
    let _ = set.apply(&asks(1, Family::V4), answer("8.8.4.2", 60), now);
    let _ = set.apply(&asks(0, Family::V6), answer("2a00::1", 60), now);
    let _ = set.apply(&asks(0, Family::V4), error(NxDomain), now);
    let verdict = set.verdict(address("2a00::1"), now);
    assert_eq!(outline(&verdict), Ok(Freshness::Fresh));
}

#[test]
fn a_host_is_not_given_up_once_the_answer_of_the_other_is_over() {
    let rules = Rules {
        stale_for: Duration::from_secs(10),
        ..Rules::default()
    };
    let (mut set, now) = set_of_two(rules);
    let no_data = ResolveError::new(NoData).with_negative_ttl(Duration::from_secs(600));
    let _ = set.apply(&asks(1, Family::V6), Err(no_data), now);
    let _ = set.apply(&asks(0, Family::V6), error(ServFail), now);
    let _ = set.apply(&asks(1, Family::V4), answer("8.8.4.2", 60), now);
    let given_up = now + Duration::from_secs(10);
    let over = now + Duration::from_secs(60) + refresh(set.rules());
    for (time, kind) in [
        (
            given_up - Duration::from_millis(1),
            RejectionKind::Unresolved,
        ),
        (given_up, RejectionKind::NotListed),
        (over - Duration::from_millis(1), RejectionKind::NotListed),
        (over, RejectionKind::Unresolved),
    ] {
        let verdict = set.verdict(address("2a00::9"), time);
        assert_eq!(outline(&verdict), Err(kind), "after {:?}", time - now);
    }
}

#[test]
fn health_tells_what_is_over_without_a_change_of_the_set() {
    let (mut set, now) = set_of_two(Rules::default());
    let _ = set.apply(&asks(0, Family::V4), answer("8.8.4.1", 60), now);
    let health = set.health(now + DAY + Duration::from_secs(60));
    let [family, _] = &health[0].families;
    assert_eq!(family.state, QuestionStatus::Expired);
    assert!(family.addresses.is_empty() && family.ttl.is_none() && family.answered_at.is_none());
}

#[test]
fn a_restart_does_not_bring_back_what_a_failure_ended() {
    let rules = Rules {
        stale_for: Duration::ZERO,
        ..Rules::default()
    };
    let (mut set, now) = set_of_two(rules.clone());
    let _ = set.apply(&asks(0, Family::V4), answer("8.8.4.1", 60), now);
    let refreshed = now + Duration::from_secs(61);
    let _ = set.apply(&asks(0, Family::V4), error(ServFail), refreshed);
    assert!(set.addresses(refreshed).is_empty());

    let saved = set.save();
    let (mut set, _) = set_of_two(rules);
    let _ = set.restore(saved, refreshed);
    assert!(set.addresses(refreshed).is_empty());
}

#[test]
fn nothing_is_crowded_out_where_nothing_lingers() {
    let (mut set, now) = set_of_two(Rules {
        linger: Duration::ZERO,
        max_lingering: 0,
        ..Rules::default()
    });
    let _ = set.apply(&asks(0, Family::V4), answer("8.8.4.1", 60), now);
    let notices = set.apply(&asks(0, Family::V4), answer("8.8.4.2", 60), now);
    assert!(matches!(notices[..], [Notice::Changed(_)]), "{notices:?}");
}

fn set_of_two(rules: Rules) -> (AllowSet, Instant) {
    let now = tokio::time::Instant::now().into_std() + DAY;
    let set = AllowSet::new(rules, names(&[0, 1]), &[], now).expect("no networks");
    (set, now)
}

fn asks(host: usize, family: Family) -> Question {
    Asked { host, family }.question()
}

fn answer(text: &str, ttl: u64) -> Result<Answer, ResolveError> {
    Ok(Answer::new([address(text)], Duration::from_secs(ttl)))
}

fn error(kind: ResolveErrorKind) -> Result<Answer, ResolveError> {
    Err(ResolveError::new(kind))
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

// The set and the model side by side.

/// A set and a model to which the same is done, and what is known of both without any rule.
struct Trial {
    set: AllowSet,
    model: Model,
    now: Instant,
    /// What a subscriber makes of the reported changes.
    replayed: BTreeMap<HostName, BTreeSet<IpAddr>>,
    /// When an answer last held an address, of whatever host.
    last_answered: BTreeMap<IpAddr, Instant>,
    /// The newest valid answer to each question and the end of its TTL, while nothing denied it.
    newest: BTreeMap<Question, (BTreeSet<IpAddr>, Instant)>,
    /// The addresses that one answer omitted, and the end of that answer's refresh.
    omitted: BTreeMap<IpAddr, Instant>,
    /// The longest that an address can be admitted after its last answer, by any rules so far.
    longest: Duration,
}

impl Trial {
    fn new(rules: Rules, setting: &Setting) -> Self {
        let now = tokio::time::Instant::now().into_std() + DAY;
        let (hosts, networks) = (names(&setting.hosts), setting.networks());
        Self {
            set: AllowSet::new(rules.clone(), hosts.clone(), &networks, now)
                .expect("the networks are not too wide"),
            model: Model::new(rules, &hosts, networks, now),
            now,
            replayed: BTreeMap::new(),
            last_answered: BTreeMap::new(),
            newest: BTreeMap::new(),
            omitted: BTreeMap::new(),
            longest: Duration::ZERO,
        }
    }

    fn take(&mut self, step: &Step) {
        self.advance(step.advance);
        match &step.action {
            Action::Wait => {}
            Action::Ask(asked, outcome) => self.ask(*asked, outcome),
            Action::Round(outcomes) => {
                let all = (0..HOSTS.len())
                    .flat_map(|host| Family::ALL.map(|family| Asked { host, family }));
                for (asked, outcome) in all.zip(outcomes) {
                    self.ask(asked, outcome);
                }
            }
            Action::Outage {
                order,
                stagger,
                rounds,
                gap,
                others,
            } => {
                for round in 0..usize::from(*rounds) {
                    self.advance(gap.advance(&self.model.rules));
                    for (place, host) in order.iter().enumerate() {
                        let fails = place * usize::from(*stagger) <= round;
                        for family in Family::ALL {
                            let asked = Asked {
                                host: *host,
                                family,
                            };
                            match (fails, others) {
                                (true, _) => self.ask(asked, &Outcome::Error(ServFail, None)),
                                (false, Some(outcome)) => self.ask(asked, outcome),
                                (false, None) => {}
                            }
                        }
                    }
                    if round % 4 == 3 {
                        self.check();
                    }
                }
            }
            Action::Expire => {
                let notices = self.set.expire(self.now);
                self.model.expire(self.now);
                self.replay(&notices);
            }
            Action::Replace(hosts) => {
                let hosts = names(hosts);
                let notices = self.set.replace_hosts(hosts.clone(), self.now);
                self.model.replace_hosts(&hosts, self.now);
                self.newest
                    .retain(|question, _| hosts.contains(&question.host));
                self.omitted.clear();
                self.replay(&notices);
            }
            Action::Restart { hosts, down, rules } => {
                let saved = self.set.save();
                self.advance(*down);
                let hosts = hosts.as_ref().map_or_else(
                    || {
                        self.model
                            .hosts
                            .iter()
                            .map(|host| host.name.clone())
                            .collect()
                    },
                    |hosts| names(hosts),
                );
                self.note_longest();
                if let Some(rules) = rules {
                    self.newest.clear();
                    self.omitted.clear();
                    self.model.rules.clone_from(rules);
                    self.note_longest();
                }
                self.set = AllowSet::new(
                    self.model.rules.clone(),
                    hosts.clone(),
                    &self.model.networks,
                    self.now,
                )
                .expect("the networks are not too wide");
                self.replayed.clear();
                let notices = self.set.restore(saved, self.now);
                self.model.restart(&hosts, self.now);
                self.newest
                    .retain(|question, _| hosts.contains(&question.host));
                if self.model.hosts.len() < HOSTS.len() {
                    self.omitted.clear();
                }
                self.replay(&notices);
            }
        }
    }

    fn advance(&mut self, advance: Advance) {
        self.now = match advance {
            Advance::Not => self.now,
            Advance::By(time) => self.now + time,
            Advance::Near { pick, side } => {
                let mut times: Vec<_> = self
                    .model
                    .boundaries()
                    .into_iter()
                    .filter_map(|time| match side {
                        Side::Before => time.checked_sub(Duration::from_millis(1)),
                        Side::At => Some(time),
                        Side::After => Some(time + Duration::from_millis(1)),
                    })
                    .filter(|time| *time > self.now)
                    .collect();
                times.sort_unstable();
                // Squared, so that the nearer ones are taken more often.
                let at = usize::from(pick) * usize::from(pick) * times.len() / (256 * 256);
                times.get(at).copied().unwrap_or(self.now)
            }
        };
    }

    fn ask(&mut self, asked: Asked, outcome: &Outcome) {
        let question = asked.question();
        let outcome = outcome.outcome(asked.family);
        let notices = self.set.apply(&question, outcome.clone(), self.now);
        if !self.has(&question.host) || !self.model.asks(question.family) {
            assert!(
                notices.is_empty(),
                "{question} is not in the set: {notices:?}"
            );
            return;
        }
        let report = self.model.apply(&question, &outcome, self.now);
        self.note(&question, &outcome);
        self.replay(&notices);
        self.check_report(&question, &notices, &report);
    }

    fn has(&self, host: &HostName) -> bool {
        self.model.hosts.iter().any(|known| known.name == *host)
    }

    fn note_longest(&mut self) {
        let rules = &self.model.rules;
        let most_ttl = rules.max_ttl.max(rules.min_ttl);
        let refresh = refresh(rules);
        let lingers = rules.linger.max(most_ttl + refresh);
        let longest = most_ttl + rules.stale_for.max(refresh) + lingers;
        self.longest = self.longest.max(longest);
    }

    /// What the independent invariants need to know.
    fn note(&mut self, question: &Question, outcome: &Result<Answer, ResolveError>) {
        let rules = &self.model.rules;
        let denied = match outcome {
            Ok(answer) if answer.addresses().is_empty() => Some(NoData),
            Err(error) if error.is_denial() => Some(error.kind()),
            _ => None,
        };
        if denied.is_some() {
            self.newest.remove(question);
        }
        let Ok(answer) = outcome else { return };
        for address in answer.addresses() {
            self.last_answered.insert(*address, self.now);
        }
        let public: BTreeSet<_> = answer
            .addresses()
            .iter()
            .copied()
            .filter(|address| rules.insecure_allow_special_addresses || !is_private(*address))
            .collect();
        if !public.is_empty() && answer.addresses().len() <= rules.max_addresses {
            let ttl_end = self.now + answer.ttl().clamp(rules.min_ttl, rules.max_ttl);
            let before = self.newest.get(question);
            let before = before.filter(|(_, ttl_end)| self.now < *ttl_end + rules.stale_for);
            if let Some((before, _)) = before
                && !rules.linger.is_zero()
                && rules.max_lingering > 2 * POOLS[0].len()
            {
                for address in before.difference(&public) {
                    // What lingers is restored by its own family, and not by that of the question.
                    if self.model.asks(Family::of(*address)) {
                        self.omitted.insert(*address, ttl_end + refresh(rules));
                    }
                }
            }
            for address in &public {
                self.omitted.remove(address);
            }
            self.newest.insert(question.clone(), (public, ttl_end));
        }
    }

    fn replay(&mut self, notices: &[Notice]) {
        for notice in notices {
            let Notice::Changed(change) = notice else {
                continue;
            };
            assert_eq!(change.at, self.now);
            assert!(
                !change.added.is_empty() || !change.removed.is_empty(),
                "nothing changed: {change:?}"
            );
            let admitted = self.replayed.entry(change.host.clone()).or_default();
            for address in &change.added {
                assert!(
                    admitted.insert(*address),
                    "{address} was added before: {change:?}"
                );
            }
            for address in &change.removed {
                assert!(
                    admitted.remove(address),
                    "{address} was not there: {change:?}"
                );
            }
        }
        let mut admitted: BTreeMap<_, _> = self
            .model
            .hosts
            .iter()
            .map(|host| (host.name.clone(), self.model.admitted_by(host, self.now)))
            .collect();
        admitted.retain(|_, addresses| !addresses.is_empty());
        self.replayed.retain(|_, addresses| !addresses.is_empty());
        assert_eq!(
            self.replayed, admitted,
            "the reported changes differ from the admitted"
        );
    }

    fn check_report(&self, question: &Question, notices: &[Notice], expected: &Report) {
        let mut report = Report::default();
        for notice in notices {
            match notice {
                Notice::Changed(_) => {}
                Notice::Failed {
                    question: failed,
                    times,
                    ..
                } => {
                    assert_eq!(failed, question);
                    report.failed = Some(*times);
                }
                Notice::Recovered {
                    question,
                    failing_since,
                } => {
                    report.recovered.insert(question.clone(), *failing_since);
                }
                Notice::Dropped {
                    question: dropped,
                    addresses,
                } => {
                    assert_eq!(dropped, question);
                    report.special = addresses.clone();
                }
                Notice::LingerLimitReached { host, dropped } => {
                    *report.crowded.entry(host.clone()).or_default() += dropped;
                }
            }
        }
        assert_eq!(report, *expected, "the notices of {question}");
    }

    fn check(&mut self) {
        self.note_longest();
        for address in EVERYBODY.iter().copied() {
            self.check_verdict(address);
        }
        let now = self.now;
        assert_eq!(self.set.addresses(now), self.model.addresses(now));
        assert_eq!(self.set.is_ready(now), self.model.is_ready(now), "is_ready");
        assert!(
            self.set
                .hosts()
                .eq(self.model.hosts.iter().map(|host| &host.name))
        );
        let due: BTreeMap<_, _> = self.set.questions().collect();
        assert_eq!(due, self.model.due(), "due times, now is {now:?}");
        self.check_next_change();
        self.check_health();
        self.check_what_is_known_later();
    }

    /// Verdicts are right at each later time without a change of the set.
    fn check_what_is_known_later(&self) {
        let times: BTreeSet<_> = self.model.boundaries().into_iter().collect();
        for time in times.range(self.now..) {
            for (family, peer) in Family::ALL.into_iter().zip(*UNLISTED) {
                let kind = match self.model.is_known(family, *time) {
                    true => RejectionKind::NotListed,
                    false => RejectionKind::Unresolved,
                };
                let verdict = self.set.verdict(peer, *time);
                assert_eq!(
                    outline(&verdict),
                    Err(kind),
                    "{family} {:?} from now",
                    *time - self.now
                );
            }
        }
    }

    fn check_verdict(&self, address: IpAddr) {
        let now = self.now;
        let verdict = self.set.verdict(address, now);
        let rows = self.model.rows(address, now);
        let best = rows.iter().map(|row| row.freshness).min();
        match (&verdict, best) {
            (Verdict::Allow(allowed), Some(best)) => {
                assert_eq!(allowed.peer(), address.to_canonical());
                assert_eq!(
                    allowed.freshness(),
                    best,
                    "how {address} is known: {rows:?}"
                );
                assert!(
                    rows.iter().any(|row| row.freshness == best
                        && row.host.as_ref() == allowed.host()
                        && row.network == allowed.network()
                        && row.since == allowed.since()),
                    "{allowed:?} is none of {rows:?}"
                );
            }
            (Verdict::Reject(rejection), None) => {
                let known = self.model.is_known(Family::of(address), now);
                let kind = if known {
                    RejectionKind::NotListed
                } else {
                    RejectionKind::Unresolved
                };
                assert_eq!(rejection.kind(), kind, "why {address} is refused");
            }
            _ => panic!("{address}: {verdict:?}, but the model has {rows:?}"),
        }
        self.check_invariants(
            address,
            verdict.allowed().and_then(|allowed| allowed.host()),
        );
    }

    /// What must hold whatever the details of the rules.
    fn check_invariants(&self, address: IpAddr, host: Option<&HostName>) {
        let address = address.to_canonical();
        if host.is_some() {
            let longest = self.longest;
            let answered = self.last_answered.get(&address);
            assert!(
                answered.is_some_and(|answered| self.now < *answered + longest),
                "{address} was last answered at {answered:?} and is admitted at {:?}",
                self.now
            );
        }
        if let Some(until) = self.omitted.get(&address) {
            assert!(
                host.is_some() || self.now >= *until,
                "{address} was omitted by one answer and is refused before its refresh"
            );
        }
        for (question, (addresses, ttl_ends)) in &self.newest {
            assert!(
                host.is_some() || self.now >= *ttl_ends || !addresses.contains(&address),
                "{address} is in the newest answer to {question} and is refused"
            );
        }
    }

    /// Between two changes that the set foretells, it does not change.
    fn check_next_change(&self) {
        let next = self.set.next_change_at(self.now);
        if let Some(next) = next {
            assert!(next > self.now, "the next change is over");
        }
        let addresses = self.model.addresses(self.now);
        for time in self.model.boundaries() {
            if time > self.now && next.is_none_or(|next| time < next) {
                assert_eq!(
                    self.model.addresses(time),
                    addresses,
                    "a change at {time:?} was not foretold, but {next:?}"
                );
            }
        }
    }

    fn check_health(&self) {
        for (health, host) in self.set.health(self.now).iter().zip(&self.model.hosts) {
            assert_eq!(health.host, host.name);
            assert_eq!(health.addresses, self.model.admitted_by(host, self.now));
            for (health, family) in health.families.iter().zip(Family::ALL) {
                assert_eq!(health.family, family);
                let question = host.question(family);
                let states = self.model.states(host, family, self.now);
                assert!(
                    states.contains(&health.state),
                    "{} {family}: {:?}, not {states:?}",
                    host.name,
                    health.state
                );
                assert_eq!(
                    health.failing_since,
                    question.run.as_ref().map(|run| run.since)
                );
                let held: Vec<_> = match &question.word {
                    Word::Answer { addresses, .. } if self.model.in_window(question, self.now) => {
                        addresses.iter().copied().collect()
                    }
                    _ => Vec::new(),
                };
                assert_eq!(health.addresses, held, "{} {family}", host.name);
            }
        }
    }
}

// The model.

struct Model {
    rules: Rules,
    networks: Vec<IpNet>,
    made: Instant,
    hosts: Vec<Host>,
    all_tried: bool,
}

struct Host {
    name: HostName,
    /// Which addresses left an answer.
    left: BTreeMap<IpAddr, Left>,
    questions: [Asking; 2],
}

#[derive(Clone, Copy)]
struct Left {
    at: Instant,
    until: Instant,
}

/// One question about one host.
struct Asking {
    word: Word,
    /// Whether the last word was an answer, even if it is over.
    named: bool,
    /// The failures since the last valid outcome.
    run: Option<Run>,
    attempted: bool,
    due: Instant,
    window_start: Instant,
}

/// What DNS said last that is believed.
enum Word {
    Nothing,
    Answer {
        addresses: BTreeSet<IpAddr>,
        at: Instant,
        ttl_end: Instant,
        restored: bool,
    },
    Denial {
        ttl_end: Instant,
    },
}

struct Run {
    since: Instant,
    /// Since when it was asked again and again.
    unbroken_since: Instant,
    /// When the next outcome is there at the latest, if it goes on being asked.
    next_by: Instant,
    times: u32,
    /// The last failure is a denial that is not believed.
    denial: Option<Denial>,
}

#[derive(Clone, Copy)]
struct Denial {
    whole_name: bool,
    at: Instant,
    ttl_end: Instant,
}

/// One reason to admit an address.
#[derive(Debug)]
struct Reason {
    freshness: Freshness,
    host: Option<HostName>,
    network: Option<IpNet>,
    since: Instant,
}

/// What an outcome leads to that should be reported.
#[derive(Debug, Default, PartialEq)]
struct Report {
    failed: Option<u32>,
    recovered: BTreeMap<Question, Instant>,
    special: Vec<IpAddr>,
    crowded: BTreeMap<HostName, usize>,
}

impl Model {
    fn new(rules: Rules, hosts: &[HostName], networks: Vec<IpNet>, now: Instant) -> Self {
        let mut model = Self {
            rules,
            networks,
            made: now,
            hosts: hosts.iter().map(|name| Host::new(name, now)).collect(),
            all_tried: false,
        };
        model.settle(now, &mut Report::default());
        model
    }

    fn apply(
        &mut self,
        question: &Question,
        outcome: &Result<Answer, ResolveError>,
        now: Instant,
    ) -> Report {
        let mut report = Report::default();
        if !self.asks(question.family) {
            return report;
        }
        let Some(host) = self
            .hosts
            .iter()
            .position(|host| host.name == question.host)
        else {
            return report;
        };
        let family = question.family;
        self.hosts[host].question_mut(family).attempted = true;
        match self.classify(outcome, now, &mut report.special) {
            Meaning::Answer(addresses, ttl_end) => {
                if let Some(run) = &self.hosts[host].question(family).run {
                    report.recovered.insert(question.clone(), run.since);
                }
                self.say(
                    host,
                    family,
                    Word::Answer {
                        addresses,
                        at: now,
                        ttl_end,
                        restored: false,
                    },
                    now,
                    &mut report,
                );
                self.hosts[host].question_mut(family).due = ttl_end;
                self.hosts[host].question_mut(family).run = None;
            }
            Meaning::Denial(denial) if self.is_believable(host, family, denial, now) => {
                self.believe(host, family, denial, now, &mut report);
            }
            Meaning::Denial(denial) => {
                report.failed = Some(self.fail(host, family, Some(denial), now));
            }
            Meaning::Failure => report.failed = Some(self.fail(host, family, None, now)),
        }
        self.settle(now, &mut report);
        report
    }

    fn expire(&mut self, now: Instant) {
        self.settle(now, &mut Report::default());
    }

    fn replace_hosts(&mut self, hosts: &[HostName], now: Instant) {
        let mut before = std::mem::take(&mut self.hosts);
        for name in hosts {
            let kept = before.iter().position(|host| host.name == *name);
            self.hosts.push(match kept {
                Some(at) => before.swap_remove(at),
                None => Host::new(name, now),
            });
        }
        self.settle(now, &mut Report::default());
    }

    /// What is kept is kept by the rules of today.
    fn restart(&mut self, hosts: &[HostName], now: Instant) {
        let rules = self.rules.clone();
        let most_ttl = rules.max_ttl.max(rules.min_ttl);
        let is_kept =
            |address: &IpAddr| rules.insecure_allow_special_addresses || !is_private(*address);
        let is_asked = |address: &IpAddr| {
            rules
                .only_family
                .is_none_or(|only| only == Family::of(*address))
        };
        let new = Self::new(rules.clone(), hosts, self.networks.clone(), now);
        let before = std::mem::replace(self, new);
        for mut host in before.hosts {
            let Some(restored) = self.hosts.iter_mut().find(|new| new.name == host.name) else {
                continue;
            };
            let mut left: Vec<_> = host
                .left
                .iter()
                .map(|(address, left)| (*address, *left))
                .collect();
            for (_, left) in &mut left {
                let latest = left.at + rules.linger.max(most_ttl + refresh(&rules));
                left.until = left.until.min(latest);
            }
            left.retain(|(address, left)| {
                let lingers = !rules.linger.is_zero() && now < left.until;
                is_kept(address) && is_asked(address) && lingers
            });
            left.sort_by_key(|(address, left)| (std::cmp::Reverse(left.at), *address));
            left.truncate(rules.max_lingering);
            restored.left.extend(left);
            for family in Family::ALL {
                if rules.only_family.is_some_and(|only| only != family) {
                    continue;
                }
                let before = host.question_mut(family);
                let question = restored.question_mut(family);
                question.window_start = before.window_start.min(now);
                question.word = match std::mem::replace(&mut before.word, Word::Nothing) {
                    Word::Nothing => Word::Nothing,
                    Word::Answer {
                        mut addresses,
                        at,
                        ttl_end,
                        ..
                    } => {
                        let ttl_end = ttl_end.min(at + most_ttl);
                        addresses.retain(is_kept);
                        question.named = true;
                        question.window_start = ttl_end;
                        if addresses.is_empty() || addresses.len() > rules.max_addresses {
                            Word::Nothing
                        } else {
                            Word::Answer {
                                addresses,
                                at,
                                ttl_end,
                                restored: true,
                            }
                        }
                    }
                    Word::Denial { ttl_end } => Word::Denial {
                        ttl_end: ttl_end.min(now),
                    },
                };
            }
        }
        self.settle(now, &mut Report::default());
    }

    fn asks(&self, family: Family) -> bool {
        self.rules.only_family.is_none_or(|only| only == family)
    }

    fn classify(
        &self,
        outcome: &Result<Answer, ResolveError>,
        now: Instant,
        special: &mut Vec<IpAddr>,
    ) -> Meaning {
        let until = |ttl: Duration| now + ttl.clamp(self.rules.min_ttl, self.rules.max_ttl);
        match outcome {
            Ok(answer) if answer.addresses().is_empty() => Meaning::Denial(Denial {
                whole_name: false,
                at: now,
                ttl_end: until(answer.ttl()),
            }),
            Ok(answer) if answer.addresses().len() > self.rules.max_addresses => Meaning::Failure,
            Ok(answer) => {
                let mut addresses: BTreeSet<_> = answer.addresses().iter().copied().collect();
                if !self.rules.insecure_allow_special_addresses {
                    special.extend(addresses.iter().filter(|address| is_private(**address)));
                    addresses.retain(|address| !is_private(*address));
                }
                if addresses.is_empty() {
                    Meaning::Failure
                } else {
                    Meaning::Answer(addresses, until(answer.ttl()))
                }
            }
            Err(error) => match error.kind() {
                NxDomain | NoData => Meaning::Denial(Denial {
                    whole_name: error.kind() == NxDomain,
                    at: now,
                    ttl_end: until(error.negative_ttl().unwrap_or(Duration::from_secs(60))),
                }),
                _ => Meaning::Failure,
            },
        }
    }

    fn fail(&mut self, host: usize, family: Family, denial: Option<Denial>, now: Instant) -> u32 {
        let floor = self.rules.min_ttl.max(Duration::from_secs(1));
        let times = match &self.hosts[host].question(family).run {
            None => 1,
            Some(run) => run.times + 1,
        };
        let mut pause = floor;
        for _ in 1..times {
            pause = (pause * 2).min(DAY);
        }
        let due = now + pause.min(self.rules.max_backoff).max(floor);
        let tolerated = self.rules.max_ttl.min(self.rules.stale_for / 4);
        let next_by = (now + tolerated).max(due + refresh(&self.rules));
        let question = self.hosts[host].question_mut(family);
        question.due = due;
        question.run = Some(match &question.run {
            None => Run {
                since: now,
                unbroken_since: now,
                next_by,
                times,
                denial,
            },
            Some(run) => Run {
                since: run.since,
                unbroken_since: if now > run.next_by {
                    now
                } else {
                    run.unbroken_since
                },
                next_by,
                times,
                denial,
            },
        });
        times
    }

    /// The hosts with a question whose last outcome is a denial that is not believed.
    fn waiting(&self) -> BTreeSet<HostName> {
        let waits = |asking: &Asking| asking.run.as_ref().is_some_and(|run| run.denial.is_some());
        let hosts = self.hosts.iter();
        hosts
            .filter(|host| host.questions.iter().any(waits))
            .map(|host| host.name.clone())
            .collect()
    }

    fn is_believable(&self, host: usize, family: Family, denial: Denial, now: Instant) -> bool {
        let named = self.hosts[host].question(family).named;
        let here = zone(&self.hosts[host].name);
        let others = self.hosts.iter().enumerate().filter(|(at, _)| *at != host);
        let confirmed = others.into_iter().any(|(_, other)| {
            let same_zone = here.is_some() && zone(&other.name) == here;
            other.questions.iter().any(|asking| {
                let later = matches!(asking.word, Word::Answer { at, .. } if at >= denial.at);
                Self::is_current(asking, now) && (!named || later && same_zone)
            })
        });
        let sibling = self.hosts[host].question(other(family));
        confirmed || !denial.whole_name && !named && Self::is_current(sibling, now)
    }

    fn believe(
        &mut self,
        host: usize,
        family: Family,
        denial: Denial,
        now: Instant,
        report: &mut Report,
    ) {
        let question = self.hosts[host].question(family);
        let held = self.in_window(question, now) && !question.word.addresses().is_empty();
        let mut left = self.hosts[host].left.iter();
        let lingers =
            left.any(|(address, left)| Family::of(*address) == family && now < left.until);
        let mut ttl_end = denial.ttl_end;
        if held || lingers {
            let soon = (self.rules.linger / 4).max(self.rules.min_ttl);
            ttl_end = ttl_end.min(denial.at + soon);
        }
        self.say(host, family, Word::Denial { ttl_end }, now, report);
        let question = self.hosts[host].question_mut(family);
        question.due = ttl_end;
        question.run = None;
    }

    /// Replaces the last word on a question; what leaves while it is in force lingers.
    fn say(&mut self, host: usize, family: Family, word: Word, now: Instant, report: &mut Report) {
        let in_force = self.in_window(self.hosts[host].question(family), now);
        let linger = self.rules.linger;
        let ttl_end = word.ttl_end().expect("something was said");
        let until = (now + linger).max(ttl_end + refresh(&self.rules));
        let host = &mut self.hosts[host];
        let question = host.question_mut(family);
        question.window_start = ttl_end;
        question.named = matches!(word, Word::Answer { .. });
        let before = std::mem::replace(&mut question.word, word).addresses();
        let after = host.question(family).word.addresses();
        if in_force && !linger.is_zero() {
            for gone in before.difference(&after) {
                // The answers to both questions may have named it.
                let earlier = host.left.get(gone).map(|left| left.until);
                let until = earlier.map_or(until, |earlier| earlier.max(until));
                host.left.insert(*gone, Left { at: now, until });
            }
        }
        host.left
            .retain(|address, left| !after.contains(address) && now < left.until);
        while host.left.len() > self.rules.max_lingering {
            let oldest = host
                .left
                .iter()
                .min_by_key(|(address, left)| (left.at, **address));
            let oldest = *oldest.expect("more than none").0;
            host.left.remove(&oldest);
            *report.crowded.entry(host.name.clone()).or_default() += 1;
        }
    }

    /// Forgets what is over and believes what has become believable.
    fn settle(&mut self, now: Instant, report: &mut Report) {
        for host in 0..self.hosts.len() {
            for family in Family::ALL {
                if !self.in_window(self.hosts[host].question(family), now) {
                    self.hosts[host].question_mut(family).word = Word::Nothing;
                }
            }
        }
        let mut believable = Vec::new();
        for host in 0..self.hosts.len() {
            for family in Family::ALL {
                let run = self.hosts[host].question(family).run.as_ref();
                if let Some(denial) = run.and_then(|run| run.denial)
                    && self.is_believable(host, family, denial, now)
                {
                    believable.push((host, family, denial));
                }
            }
        }
        for (host, family, denial) in believable {
            self.believe(host, family, denial, now, report);
        }
        let asked: Vec<_> = Family::ALL
            .into_iter()
            .filter(|family| self.asks(*family))
            .collect();
        self.all_tried |= self
            .hosts
            .iter()
            .all(|host| asked.iter().all(|family| host.question(*family).attempted));
    }

    // Questions of time.

    /// Whether what was said last still counts.
    fn in_window(&self, question: &Asking, now: Instant) -> bool {
        question.word.ttl_end().is_some_and(|ttl_end| {
            now < ttl_end + self.rules.stale_for
                || question.run.is_none() && now < ttl_end + refresh(&self.rules)
        })
    }

    /// Whether a question has an answer, of DNS itself, whose TTL has not ended.
    fn is_current(question: &Asking, now: Instant) -> bool {
        matches!(
            question.word,
            Word::Answer { ttl_end, restored: false, .. } if now < ttl_end
        )
    }

    fn rows(&self, address: IpAddr, now: Instant) -> Vec<Reason> {
        let address = address.to_canonical();
        let of = |host| self.rows_of(host, address, now);
        let mut rows: Vec<_> = self.hosts.iter().flat_map(of).collect();
        if rows.is_empty()
            && let Some(network) = self.networks.iter().find(|net| net.contains(&address))
        {
            rows.push(Reason {
                freshness: Freshness::Static,
                host: None,
                network: Some(*network),
                since: self.made,
            });
        }
        rows
    }

    fn rows_of(&self, host: &Host, address: IpAddr, now: Instant) -> Vec<Reason> {
        let mut rows = Vec::new();
        let mut push = |freshness, since| {
            rows.push(Reason {
                freshness,
                host: Some(host.name.clone()),
                network: None,
                since,
            });
        };
        for question in &host.questions {
            if let Word::Answer {
                addresses,
                at,
                ttl_end,
                restored,
            } = &question.word
                && addresses.contains(&address)
                && self.in_window(question, now)
            {
                let refreshing = question.run.is_none() && now < *ttl_end + refresh(&self.rules);
                let freshness = match (*restored, now < *ttl_end || refreshing) {
                    (true, _) => Freshness::Restored,
                    (false, true) => Freshness::Fresh,
                    (false, false) => Freshness::Stale,
                };
                push(freshness, *at);
            }
        }
        if let Some(left) = host.left.get(&address)
            && now < left.until
        {
            push(Freshness::Lingering, left.at);
        }
        rows
    }

    fn admitted_by(&self, host: &Host, now: Instant) -> BTreeSet<IpAddr> {
        let held = host
            .questions
            .iter()
            .flat_map(|asking| asking.word.addresses());
        held.chain(host.left.keys().copied())
            .filter(|address| !self.rows_of(host, *address, now).is_empty())
            .collect()
    }

    fn addresses(&self, now: Instant) -> BTreeSet<IpAddr> {
        let of = |host| self.admitted_by(host, now);
        self.hosts.iter().flat_map(of).collect()
    }

    fn is_known(&self, family: Family, now: Instant) -> bool {
        (!self.hosts.is_empty() || !self.networks.is_empty())
            && self.hosts.iter().all(|host| {
                !self.asks(family)
                    || self.in_window(host.question(family), now)
                    || self.is_given_up(host, family, now)
            })
    }

    fn is_given_up(&self, host: &Host, family: Family, now: Instant) -> bool {
        let question = host.question(family);
        let Some(run) = &question.run else {
            return false;
        };
        let end = question.window_start.max(run.unbroken_since) + self.rules.stale_for;
        if now < end || run.next_by < end || self.in_window(question, now) {
            return false;
        }
        let here = zone(&host.name);
        let others: Vec<_> = self
            .hosts
            .iter()
            .filter(|other| other.name != host.name)
            .collect();
        let same_zone: Vec<_> = others
            .iter()
            .copied()
            .filter(|other| here.is_some() && zone(&other.name) == here)
            .collect();
        let asked = if same_zone.is_empty() {
            others
        } else {
            same_zone
        };
        asked
            .iter()
            .flat_map(|other| &other.questions)
            .any(|asking| {
                let Word::Answer {
                    at,
                    ttl_end,
                    restored: false,
                    ..
                } = asking.word
                else {
                    return false;
                };
                let is_well = asking.run.is_none() && now < ttl_end + refresh(&self.rules);
                is_well || at >= end && self.in_window(asking, now)
            })
    }

    fn is_ready(&self, now: Instant) -> bool {
        self.all_tried && (!self.networks.is_empty() || !self.addresses(now).is_empty())
    }

    fn due(&self) -> BTreeMap<Question, Instant> {
        let mut due = BTreeMap::new();
        for host in &self.hosts {
            for family in Family::ALL {
                if !self.asks(family) {
                    continue;
                }
                let question = Question {
                    host: host.name.clone(),
                    family,
                };
                due.insert(question, host.question(family).due);
            }
        }
        due
    }

    /// How a question may be said to stand.
    fn states(&self, host: &Host, family: Family, now: Instant) -> Vec<QuestionStatus> {
        let question = host.question(family);
        if !self.asks(family) {
            return vec![QuestionStatus::NotAsked];
        }
        if question.run.is_some() {
            return if self.is_given_up(host, family, now) {
                vec![QuestionStatus::GivenUp]
            } else {
                vec![QuestionStatus::Failing]
            };
        }
        match question.word {
            Word::Answer { .. } if self.in_window(question, now) => vec![QuestionStatus::Answered],
            Word::Denial { .. } if self.in_window(question, now) => vec![QuestionStatus::Denied],
            _ if question.attempted => vec![QuestionStatus::Expired],
            _ => vec![QuestionStatus::Expired, QuestionStatus::Unasked],
        }
    }

    /// Every time at which anything may change.
    fn boundaries(&self) -> Vec<Instant> {
        let mut times = Vec::new();
        for host in &self.hosts {
            times.extend(host.left.values().map(|left| left.until));
            for question in &host.questions {
                times.push(question.due);
                times.push(question.window_start + self.rules.stale_for);
                if let Some(ttl_end) = question.word.ttl_end() {
                    times.push(ttl_end);
                    times.push(ttl_end + refresh(&self.rules));
                    times.push(ttl_end + self.rules.stale_for);
                }
                if let Some(run) = &question.run {
                    times.push(run.next_by);
                    times.push(run.unbroken_since + self.rules.stale_for);
                    times.extend(run.denial.map(|denial| denial.ttl_end));
                }
            }
        }
        times
    }
}

impl Host {
    fn new(name: &HostName, now: Instant) -> Self {
        let asking = || Asking {
            word: Word::Nothing,
            named: false,
            run: None,
            attempted: false,
            due: now,
            window_start: now,
        };
        Self {
            name: name.clone(),
            left: BTreeMap::new(),
            questions: [asking(), asking()],
        }
    }

    fn question(&self, family: Family) -> &Asking {
        match family {
            Family::V4 => &self.questions[0],
            Family::V6 => &self.questions[1],
        }
    }

    fn question_mut(&mut self, family: Family) -> &mut Asking {
        match family {
            Family::V4 => &mut self.questions[0],
            Family::V6 => &mut self.questions[1],
        }
    }
}

impl Word {
    fn ttl_end(&self) -> Option<Instant> {
        match self {
            Self::Nothing => None,
            Self::Answer { ttl_end, .. } | Self::Denial { ttl_end } => Some(*ttl_end),
        }
    }

    fn addresses(&self) -> BTreeSet<IpAddr> {
        match self {
            Self::Answer { addresses, .. } => addresses.clone(),
            Self::Nothing | Self::Denial { .. } => BTreeSet::new(),
        }
    }
}

/// An outcome as the rules see it.
enum Meaning {
    Answer(BTreeSet<IpAddr>, Instant),
    Denial(Denial),
    Failure,
}

/// How long an answer is current after its TTL, while its refresh is under way: the resolver's last
/// second, the jitter, the question.
fn refresh(rules: &Rules) -> Duration {
    Duration::from_millis(1_500) + rules.question_time_limit
}

/// The zone of a name of [`HOSTS`], if what becomes of one name in it says something about another.
fn zone(name: &HostName) -> Option<&str> {
    let name = name.as_str();
    name.contains(".psp.").then_some("psp")
}

fn other(family: Family) -> Family {
    match family {
        Family::V4 => Family::V6,
        Family::V6 => Family::V4,
    }
}

// Random schedules.

/// What a set is made of, beside its rules.
#[derive(Clone, Debug)]
struct Setting {
    hosts: Vec<usize>,
    network: bool,
}

impl Setting {
    fn networks(&self) -> Vec<IpNet> {
        let network = "8.8.4.4/31".parse().expect("a network");
        if self.network {
            vec![network]
        } else {
            Vec::new()
        }
    }
}

#[derive(Clone, Debug)]
struct Step {
    advance: Advance,
    action: Action,
}

impl Step {
    fn keep_families_apart(&mut self) {
        match &mut self.action {
            Action::Ask(_, outcome) => outcome.keep_families_apart(),
            Action::Round(outcomes) => {
                for outcome in outcomes {
                    outcome.keep_families_apart();
                }
            }
            Action::Outage { others, .. } => {
                if let Some(outcome) = others {
                    outcome.keep_families_apart();
                }
            }
            Action::Wait | Action::Expire | Action::Replace(_) | Action::Restart { .. } => {}
        }
    }

    fn keep_rules(&mut self) {
        if let Action::Restart { rules, .. } = &mut self.action {
            *rules = None;
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Advance {
    Not,
    By(Duration),
    /// To, or close to, one of the times at which something may change.
    Near {
        pick: u8,
        side: Side,
    },
}

#[derive(Clone, Copy, Debug)]
enum Side {
    Before,
    At,
    After,
}

#[derive(Clone, Debug)]
enum Action {
    Wait,
    Ask(Asked, Outcome),
    /// Every question about every host, in the order of [`HOSTS`].
    Round(Vec<Outcome>),
    /// Hosts fail one after the other, each after as many rounds as `stagger` says.
    Outage {
        order: Vec<usize>,
        stagger: u8,
        rounds: u8,
        gap: Gap,
        /// What comes of the questions about those that do not fail yet, if they are asked.
        others: Option<Outcome>,
    },
    Expire,
    Replace(Vec<usize>),
    Restart {
        hosts: Option<Vec<usize>>,
        down: Advance,
        /// The rules from then on, if they are others.
        rules: Option<Rules>,
    },
}

/// The time between two rounds of an outage.
#[derive(Clone, Copy, Debug)]
enum Gap {
    /// As long as it may be without a hole, or a bit longer.
    Longest {
        more: bool,
    },
    By(Duration),
}

impl Gap {
    fn advance(self, rules: &Rules) -> Advance {
        Advance::By(match self {
            Self::Longest { more } => {
                let longest = rules.max_ttl.min(rules.stale_for / 4);
                longest + Duration::from_millis(more.into())
            }
            Self::By(time) => time,
        })
    }
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    host: usize,
    family: Family,
}

impl Asked {
    fn question(self) -> Question {
        Question {
            host: HOSTS[self.host].clone(),
            family: self.family,
        }
    }
}

#[derive(Clone, Debug)]
enum Outcome {
    /// The addresses of the family whose bits are set.
    Answer {
        mask: u8,
        ttl: Duration,
        /// And [`MAPPED`], whatever the family.
        mapped: bool,
    },
    Error(ResolveErrorKind, Option<Duration>),
}

impl Outcome {
    /// Where the answers to both questions hold one address, it lingers or not as one of them is
    /// the last to lose it.
    fn keep_families_apart(&mut self) {
        if let Self::Answer { mapped, .. } = self {
            *mapped = false;
        }
    }

    fn outcome(&self, family: Family) -> Result<Answer, ResolveError> {
        match self {
            Self::Answer { mask, ttl, mapped } => {
                let addresses = pool(family)
                    .into_iter()
                    .enumerate()
                    .filter(|(at, _)| mask & (1 << at) != 0)
                    .map(|(_, address)| address);
                let foreign = mapped.then(|| *MAPPED);
                let addresses = addresses.chain(foreign);
                Ok(Answer::new(addresses, *ttl))
            }
            Self::Error(kind, None) => Err(ResolveError::new(*kind)),
            Self::Error(kind, Some(ttl)) => Err(ResolveError::new(*kind).with_negative_ttl(*ttl)),
        }
    }
}

fn rules() -> impl Strategy<Value = Rules> {
    let ttls = select(&[
        (1, 1),
        (1, 60),
        (5, 60),
        (5, 60),
        (5, 3600),
        (5, 3600),
        (30, 3600),
        (600, 7200),
    ]);
    let only_family = prop::option::weighted(0.15, select(&Family::ALL));
    let odd = (select(&[1, 5, 5, 5, 20, 60]), only_family);
    let window = || {
        prop_oneof![
            1 => 1_000_u64..20_000,
            5 => select(&[0, 1, 60_000, 60_000, 3_600_000, 86_400_000]),
        ]
        .prop_map(Duration::from_millis)
    };
    (
        ttls,
        window(),
        window(),
        select(&[0, 1, 10, 60, 60, 3600]),
        select(&[0, 2, 3, 3, 256, 256, 256]),
        select(&[0, 1, 2, 4, 1024, 1024, 1024]),
        prop::bool::weighted(0.85),
        odd,
    )
        .prop_map(
            |(ttls, linger, stale_for, backoff, max_addresses, max_lingering, special, odd)| {
                Rules {
                    min_ttl: Duration::from_secs(ttls.0),
                    max_ttl: Duration::from_secs(ttls.1),
                    linger,
                    stale_for,
                    max_backoff: Duration::from_secs(backoff),
                    max_addresses,
                    max_lingering,
                    question_time_limit: Duration::from_secs(odd.0),
                    only_family: odd.1,
                    insecure_allow_special_addresses: special,
                }
            },
        )
}

fn setting() -> impl Strategy<Value = Setting> {
    let hosts = prop_oneof![1 => host_list(0), 12 => host_list(1)];
    (hosts, prop::bool::weighted(0.2)).prop_map(|(hosts, network)| Setting { hosts, network })
}

fn host_list(least: usize) -> impl Strategy<Value = Vec<usize>> {
    let all: Vec<_> = (0..HOSTS.len()).collect();
    subsequence(all, least..=HOSTS.len()).prop_shuffle()
}

fn step() -> impl Strategy<Value = Step> {
    let action = prop_oneof![
        2 => Just(Action::Wait),
        16 => (asked(), outcome()).prop_map(|(asked, outcome)| Action::Ask(asked, outcome)),
        4 => prop::collection::vec(outcome(), 2 * HOSTS.len()).prop_map(Action::Round),
        2 => outage(),
        2 => Just(Action::Expire),
        1 => host_list(0).prop_map(Action::Replace),
        2 => (
            prop::option::weighted(0.3, host_list(1)),
            advance(),
            prop::option::weighted(0.3, rules()),
        )
            .prop_map(|(hosts, down, rules)| Action::Restart { hosts, down, rules }),
    ];
    (advance(), action).prop_map(|(advance, action)| Step { advance, action })
}

fn outage() -> impl Strategy<Value = Action> {
    let gap = prop_oneof![
        3 => any::<bool>().prop_map(|more| Gap::Longest { more }),
        1 => (1_u64..120).prop_map(|time| Gap::By(Duration::from_secs(time))),
        1 => (1_u64..24).prop_map(|hours| Gap::By(Duration::from_secs(3600 * hours))),
    ];
    let others = prop::option::weighted(0.7, outcome());
    let rounds = prop_oneof![3 => 1_u8..9, 1 => 20_u8..28];
    (host_list(1), 0_u8..8, rounds, gap, others).prop_map(
        |(order, stagger, rounds, gap, others)| Action::Outage {
            order,
            stagger,
            rounds,
            gap,
            others,
        },
    )
}

fn advance() -> impl Strategy<Value = Advance> {
    let side = select(&[Side::Before, Side::At, Side::At, Side::After]);
    prop_oneof![
        4 => Just(Advance::Not),
        1 => (1_u64..10_000).prop_map(|time| Advance::By(Duration::from_millis(time))),
        1 => (1_u64..8_000).prop_map(|time| Advance::By(Duration::from_secs(time))),
        1 => (1_u64..120).prop_map(|hours| Advance::By(Duration::from_secs(3600 * hours))),
        6 => (any::<u8>(), side).prop_map(|(pick, side)| Advance::Near { pick, side }),
    ]
}

fn asked() -> impl Strategy<Value = Asked> {
    let family = select(&Family::ALL);
    (0..HOSTS.len(), family).prop_map(|(host, family)| Asked { host, family })
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let failure = select(&[
        ServFail,
        Timeout,
        Truncated,
        Bogus,
        BrokenChain,
        TooManyAddresses,
        Other,
    ]);
    let denial = || prop::option::of(ttl());
    prop_oneof![
        10 => (any::<u8>(), ttl(), prop::bool::weighted(0.1))
            .prop_map(|(mask, ttl, mapped)| Outcome::Answer { mask, ttl, mapped }),
        2 => (0_u32..6, ttl())
            .prop_map(|(bit, ttl)| Outcome::Answer { mask: 1 << bit, ttl, mapped: false }),
        1 => ttl().prop_map(|ttl| Outcome::Answer { mask: 0, ttl, mapped: false }),
        3 => denial().prop_map(|ttl| Outcome::Error(NoData, ttl)),
        3 => denial().prop_map(|ttl| Outcome::Error(NxDomain, ttl)),
        5 => (failure, denial()).prop_map(|(kind, ttl)| Outcome::Error(kind, ttl)),
    ]
}

fn ttl() -> impl Strategy<Value = Duration> {
    select(&[0, 1, 10, 60, 60, 60, 1800, 3600, 3600, 7200, 0xffff_ffff])
        .prop_map(Duration::from_secs)
}

/// Outcomes for distinct questions. Denials are about one host only, and of one TTL: of two hosts
/// whose evidence is each other, the one that is denied first is believed, and of two denials of one
/// name the last gives the TTL.
fn batch() -> impl Strategy<Value = Vec<(Asked, Outcome)>> {
    let all: Vec<_> = (0..HOSTS.len())
        .flat_map(|host| Family::ALL.map(|family| Asked { host, family }))
        .collect();
    let asked = subsequence(all, 2..=2 * HOSTS.len()).prop_shuffle();
    let outcomes = prop::collection::vec(outcome(), 2 * HOSTS.len());
    (asked, outcomes, 0..HOSTS.len(), ttl()).prop_map(|(asked, outcomes, denier, denial_ttl)| {
        let one_denier = |asked: &Asked, outcome| match outcome {
            Outcome::Error(kind @ (NxDomain | NoData), _) if asked.host == denier => {
                Outcome::Error(kind, Some(denial_ttl))
            }
            Outcome::Answer { mask, .. } if mask & 0x3f == 0 && asked.host == denier => {
                Outcome::Error(NoData, Some(denial_ttl))
            }
            Outcome::Error(NxDomain | NoData, _) => Outcome::Error(ServFail, None),
            Outcome::Answer { mask, .. } if mask & 0x3f == 0 => Outcome::Error(ServFail, None),
            other => other,
        };
        let of = |(asked, outcome)| (asked, one_denier(&asked, outcome));
        asked.into_iter().zip(outcomes).map(of).collect()
    })
}

/// The addresses that may be in an answer; the second of each family is private.
fn pool(family: Family) -> [IpAddr; 6] {
    POOLS[family as usize]
}

fn is_private(address: IpAddr) -> bool {
    Family::ALL.iter().any(|family| pool(*family)[1] == address)
}

fn names(hosts: &[usize]) -> Vec<HostName> {
    hosts.iter().map(|at| HOSTS[*at].clone()).collect()
}

/// A verdict without what may differ between two reasons that are equally good.
fn outline(verdict: &Verdict) -> Result<Freshness, RejectionKind> {
    match verdict {
        Verdict::Allow(allowed) => Ok(allowed.freshness()),
        Verdict::Reject(rejection) => Err(rejection.kind()),
    }
}

/// `PROPTEST_CASES` overrides the number of cases.
fn config(cases: u32) -> Config {
    Config {
        cases,
        failure_persistence: Some(Box::new(FileFailurePersistence::SourceParallel(
            "proptest-regressions",
        ))),
        // Without optimisation, ChaCha would take half of the time.
        rng_algorithm: RngAlgorithm::XorShift,
        ..Config::default()
    }
}

/// Three of one zone, and two that have only a public suffix in common.
static HOSTS: LazyLock<[HostName; 5]> = LazyLock::new(|| {
    [
        "a.psp.example",
        "b.psp.example",
        "d.co.uk",
        "c.psp.example",
        "e.co.uk",
    ]
    .map(|name| name.parse().expect("a host name"))
});

static POOLS: LazyLock<[[IpAddr; 6]; 2]> = LazyLock::new(|| {
    [
        [
            "8.8.4.1", "10.0.0.1", "8.8.4.2", "8.8.4.3", "8.8.4.4", "8.8.4.6",
        ],
        [
            "2a00::1", "fd00::1", "2a00::2", "2a00::3", "2a00::4", "2a00::5",
        ],
    ]
    .map(|addresses| addresses.map(|address| address.parse().expect("an address")))
});

/// The pools, a stranger of each family, and one that is in the static network only.
static EVERYBODY: LazyLock<Vec<IpAddr>> = LazyLock::new(|| {
    let others = ["9.9.9.9", "2a00::9", "8.8.4.5"];
    let others = others.map(|address| address.parse().expect("an address"));
    let mapped = iter::once(*MAPPED);
    POOLS
        .iter()
        .flatten()
        .copied()
        .chain(others)
        .chain(mapped)
        .collect()
});

/// The first IPv4 address of the pool in the spelling of IPv6.
static MAPPED: LazyLock<IpAddr> = LazyLock::new(|| "::ffff:8.8.4.1".parse().expect("an address"));

/// A peer of each family that no answer and no network lists.
static UNLISTED: LazyLock<[IpAddr; 2]> =
    LazyLock::new(|| ["9.9.9.9", "2a00::9"].map(|address| address.parse().expect("an address")));

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
