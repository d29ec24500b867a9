//! Tests of the effect of a machine's sleep on a set. Time passes during the sleep, but no question fails.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use callback_source::{
    AllowSet, Answer, Family, Freshness, HostName, Question, RejectionKind, ResolveError,
    ResolveErrorKind,
    set::{QuestionStatus, Rules},
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(60 * 60);
/// The longest time that a refresh takes: the second in which a resolver can still return old records, the jitter, and
/// the time limit of a question.
const REFRESH: Duration = Duration::from_millis(6_500);

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

fn question(name: &str) -> Question {
    Question {
        host: host(name),
        family: Family::V4,
    }
}

fn address(last: u8) -> IpAddr {
    [20, 0, 0, last].into()
}

fn answer(last: u8, ttl: Duration) -> Result<Answer, ResolveError> {
    Ok(Answer::new([address(last)], ttl))
}

fn set(names: &[&str], now: Instant) -> AllowSet {
    let hosts = names.iter().map(|name| host(name));
    AllowSet::new(Rules::default(), hosts, &[], now).unwrap()
}

fn freshness(set: &AllowSet, last: u8, now: Instant) -> Option<Freshness> {
    let verdict = set.verdict(address(last), now);
    verdict.allowed().map(|allowed| allowed.freshness())
}

fn due_at(set: &AllowSet, name: &str) -> Instant {
    let due = |(of, at)| (of == question(name)).then_some(at);
    set.questions().find_map(due).unwrap()
}

#[test]
fn a_question_is_due_earlier_by_the_sleep() {
    let start = now();
    let mut set = set(&["a.test"], start);
    set.apply(&question("a.test"), answer(1, HOUR), start);
    let now = start + 10 * SECOND;
    set.slept(2 * HOUR, now);
    assert_eq!(due_at(&set, "a.test"), start + HOUR - 2 * HOUR);
    assert_eq!(freshness(&set, 1, now), Some(Freshness::Stale));
    let verdict = set.verdict(address(1), now);
    let since = verdict.allowed().map(|allowed| allowed.since());
    assert_eq!(since, Some(start - 2 * HOUR));
}

#[test]
fn each_window_ends_as_if_the_machine_had_been_awake() {
    let start = now();
    let tick = Duration::from_millis(1);
    for slept in [SECOND, 30 * 60 * SECOND, 100 * HOUR] {
        // Stale: the window is 24 hours from the end of the TTL.
        let mut stale = set(&["a.test"], start);
        stale.apply(&question("a.test"), answer(1, HOUR), start);
        let failure = Err(ResolveError::new(ResolveErrorKind::ServFail));
        stale.apply(&question("a.test"), failure, start + HOUR);
        // Linger: an address stays admitted for an hour after the answer that omits it, and at least until that answer
        // has been refreshed.
        let mut lingering = set(&["a.test"], start);
        lingering.apply(&question("a.test"), answer(1, 1000 * HOUR), start);
        lingering.apply(&question("a.test"), answer(2, 1000 * HOUR), start + SECOND);
        let windows = [
            (stale, start + 25 * HOUR),
            (lingering, start + SECOND + HOUR + REFRESH),
        ];
        for (set, ends) in windows {
            // After the sleep, one tick of the window is left, or no time at all.
            for (left, is_allowed) in [(tick, true), (Duration::ZERO, false)] {
                let mut set = set.clone();
                let now = (ends - left).checked_sub(slept).unwrap();
                let now = now.max(start + HOUR);
                let slept = ends - left - now;
                set.slept(slept, now);
                let allowed = set.verdict(address(1), now).is_allowed();
                assert_eq!(allowed, is_allowed, "{slept:?} {left:?}");
            }
        }
    }
}

#[test]
fn a_window_that_ends_during_a_sleep_is_reported_and_stays_closed() {
    let start = now();
    let mut set = set(&["a.test"], start);
    set.apply(&question("a.test"), answer(1, 60 * SECOND), start);
    let now = start + SECOND;
    let notices = set.slept(48 * HOUR, now);
    assert_eq!(notices.len(), 1, "{notices:?}");
    let verdict = set.verdict(address(1), now);
    let kind = verdict.rejection().map(|rejection| rejection.kind());
    assert_eq!(kind, Some(RejectionKind::Unresolved));
    // No answer omitted the address while it was admitted, so it does not linger.
    set.apply(&question("a.test"), answer(2, 60 * SECOND), now);
    assert!(!set.verdict(address(1), now).is_allowed());
}

#[test]
fn a_question_does_not_fail_while_the_machine_sleeps() {
    let start = now();
    let failure = || Err(ResolveError::new(ResolveErrorKind::ServFail));
    let mut set = set(&["a.test", "b.test"], start);
    for name in ["a.test", "b.test"] {
        let none = Question {
            family: Family::V6,
            ..question(name)
        };
        set.apply(&question(name), answer(1, 60 * SECOND), start);
        set.apply(
            &none,
            Err(ResolveError::new(ResolveErrorKind::NoData)),
            start,
        );
    }
    set.apply(&question("a.test"), failure(), start + 60 * SECOND);
    set.apply(&question("b.test"), answer(2, HOUR), start + 65 * SECOND);
    let now = start + 70 * SECOND;
    set.slept(25 * HOUR, now);
    let family = set.health(now).swap_remove(0).families[0].clone();
    assert_eq!(family.state, QuestionStatus::Failing, "not given up");
    let failing_since = (start + 60 * SECOND).checked_sub(25 * HOUR);
    assert_eq!(family.failing_since, failing_since);
    // The question is not given up even if it fails again after the sleep, while the other host has an answer.
    set.apply(&question("a.test"), failure(), now);
    set.apply(&question("b.test"), answer(2, HOUR), now);
    let family = set.health(now).swap_remove(0).families[0].clone();
    assert_eq!(family.state, QuestionStatus::Failing, "not given up");
    let verdict = set.verdict(address(9), now);
    let kind = verdict.rejection().map(|rejection| rejection.kind());
    assert_eq!(kind, Some(RejectionKind::Unresolved));
}

#[test]
fn the_order_of_denials_and_answers_is_that_from_before_the_sleep() {
    let start = now();
    let names = ["a.zone.test", "b.zone.test"];
    let mut set = set(&names, start);
    for (last, name) in (1..).zip(names) {
        set.apply(&question(name), answer(last, 60 * SECOND), start);
    }
    let denial = Err(ResolveError::new(ResolveErrorKind::NxDomain));
    let now = start + 60 * SECOND;
    set.apply(&question(names[0]), denial, now);
    set.slept(10 * SECOND, now);
    // This answer is not older than the denial.
    set.apply(&question(names[1]), answer(2, 60 * SECOND), now);
    assert_eq!(freshness(&set, 1, now), Some(Freshness::Lingering));
}
