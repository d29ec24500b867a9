//! Comparison of the set with the model in random schedules, and schedules that once failed.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use proptest::{
    prelude::*,
    test_runner::{Config, FileFailurePersistence, RngAlgorithm},
};

use super::{
    bytes::play,
    checks::outline,
    fixtures::{DAY, EVERYBODY, names},
    rules::{Model, ModelQuestion, refresh},
    schedule::Asked,
    strategies::{advance, batch, rules, setting, step},
    trial::{Restart, Trial},
};
use crate::{
    AllowSet, Answer, Family, Freshness, HostName, Question, RejectionKind, ResolveError,
    ResolveErrorKind::{self, NoData, NxDomain, ServFail},
    set::{Notice, QuestionStatus, Rules},
};

proptest! {
    #![proptest_config(config(2048))]

    #[test]
    fn the_set_and_the_model_agree_after_every_step(
        rules in rules(),
        setting in setting(),
        steps in prop::collection::vec(step(), 1..=60),
    ) {
        let mut trial = Trial::new(rules, &setting, in_memory);
        trial.check();
        for step in steps {
            trial.take(&step);
            trial.check();
        }
        trial.finish();
    }
}

proptest! {
    #![proptest_config(config(256))]

    #[test]
    fn the_set_and_the_model_agree_on_the_schedule_of_any_bytes(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        play(&bytes, in_memory);
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
        // The order matters in two cases, which these rules exclude. First, the limit of lingering addresses is applied
        // after each answer. Second, an unbelieved denial can end the stale window at once, so that no address remains
        // that could linger.
        let rules = Rules {
            max_lingering: usize::MAX,
            stale_for: rules.stale_for.max(refresh(&rules)),
            ..rules
        };
        let mut trial = Trial::new(rules, &setting, in_memory);
        for mut step in steps {
            step.keep_families_apart();
            step.keep_rules();
            trial.take(&step);
        }
        trial.advance(advance);
        for (_, outcome) in &mut batch {
            outcome.keep_families_apart();
        }
        // Whether a denial without evidence is believed later depends on which of three outcomes arrives first: the
        // evidence, another outcome about the denied host, or a denial that an answer of the denied host confirms.
        let unbelieved = unbelieved(&trial.model);
        batch.retain(|(asked, outcome)| {
            let denies = outcome.outcome(asked.family).is_err_and(|error| error.is_denial());
            !unbelieved.contains(&asked.question().host) && (unbelieved.is_empty() || !denies)
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

/// Returns the hosts with a question whose last outcome is a denial that is not believed.
fn unbelieved(model: &Model) -> BTreeSet<HostName> {
    let is_unbelieved = |question: &ModelQuestion| {
        let run = question.run.as_ref();
        run.is_some_and(|run| run.denial.is_some())
    };
    let hosts = model.hosts.iter();
    hosts
        .filter(|host| host.questions.iter().any(is_unbelieved))
        .map(|host| host.name.clone())
        .collect()
}

// Schedules that once failed.

#[test]
fn nxdomain_for_one_family_does_not_remove_an_answer_of_the_other_at_the_same_instant() {
    let (mut set, now) = set_of_two(Rules::default());
    let _ = set.apply(&asks(1, Family::V4), answer("8.8.4.2", 60), now);
    let _ = set.apply(&asks(0, Family::V6), answer("2a00::1", 60), now);
    let _ = set.apply(&asks(0, Family::V4), error(NxDomain), now);
    let verdict = set.verdict(address("2a00::1"), now);
    assert_eq!(outline(&verdict), Ok(Freshness::Fresh));
}

#[test]
fn a_host_is_no_longer_given_up_once_the_answer_of_the_other_has_expired() {
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
fn health_shows_an_expired_answer_without_a_change_of_the_set() {
    let (mut set, now) = set_of_two(Rules::default());
    let _ = set.apply(&asks(0, Family::V4), answer("8.8.4.1", 60), now);
    let health = set.health(now + DAY + Duration::from_secs(60));
    let [family, _] = &health[0].families;
    assert_eq!(family.state, QuestionStatus::Expired);
    assert!(family.addresses.is_empty() && family.ttl.is_none() && family.answered_at.is_none());
}

#[test]
fn a_restart_does_not_bring_back_an_address_that_a_failure_removed() {
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
fn no_linger_limit_is_reported_where_no_address_lingers() {
    let (mut set, now) = set_of_two(Rules {
        linger: Duration::ZERO,
        max_lingering: 0,
        ..Rules::default()
    });
    let _ = set.apply(&asks(0, Family::V4), answer("8.8.4.1", 60), now);
    let notices = set.apply(&asks(0, Family::V4), answer("8.8.4.2", 60), now);
    assert!(matches!(notices[..], [Notice::Changed(_)]), "{notices:?}");
}

/// Restores the state of a set directly, without a state file.
fn in_memory(saved: &AllowSet, restored: &mut AllowSet, restart: Restart) -> Vec<Notice> {
    assert!(restart.start <= restart.stopped_at && restart.stopped_at <= restart.now);
    restored.restore(saved.save(), restart.now)
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

/// Returns the configuration of proptest. `PROPTEST_CASES` overrides the number of cases.
fn config(cases: u32) -> Config {
    Config {
        cases,
        failure_persistence: Some(Box::new(FileFailurePersistence::SourceParallel(
            "proptest-regressions",
        ))),
        // In a build without optimisation, the tests would spend half of their time in proptest's default generator,
        // ChaCha.
        rng_algorithm: RngAlgorithm::XorShift,
        ..Config::default()
    }
}
