//! Tests of what a set reports about its questions and addresses.

use std::collections::BTreeSet;

use super::*;
use crate::set::health::Standing;

const WINDOW: Duration = Duration::from_secs(60 + 24 * 60 * 60);

#[test]
fn every_report_ends_a_window_at_the_moment_at_which_verdicts_change() {
    let mut world = World::new(1);
    world.answer(0, Family::V4, 60, &["20.0.0.1"]);
    world.fail(0, Family::V6, ResolveErrorKind::NoData);
    let (set, end) = (&world.set, world.start + WINDOW);
    let peer: IpAddr = [20, 0, 0, 1].into();
    let reports = |now| {
        let gauges = set.gauges(now);
        let health = set.health(now).remove(0);
        (
            set.addresses(now).len(),
            set.windows(now).len(),
            (gauges.addresses, gauges.last_answer, gauges.oldest_answer),
            (health.addresses, health.families[0].addresses.clone()),
            set.next_change_at(now),
        )
    };
    let start = Some(world.start);
    let listed = (BTreeSet::from([peer]), vec![peer]);
    assert_eq!(
        reports(end - MS),
        (1, 1, (1, start, start), listed, Some(end))
    );
    let nothing = (BTreeSet::new(), Vec::new());
    assert_eq!(reports(end), (0, 0, (0, None, None), nothing, None));
}

#[test]
fn a_status_follows_the_outcomes_and_the_windows() {
    let mut world = World::new(2);
    assert_eq!(world.state(0, Family::V4), QuestionStatus::Unasked);
    world.answer(0, Family::V4, 60, &["20.0.0.1"]);
    world.fail(0, Family::V6, ResolveErrorKind::NoData);
    assert_eq!(world.state(0, Family::V4), QuestionStatus::Answered);
    assert_eq!(world.state(0, Family::V6), QuestionStatus::Denied);
    world.fail(1, Family::V4, ResolveErrorKind::Timeout);
    assert_eq!(world.state(1, Family::V4), QuestionStatus::Failing);
    world.at(WINDOW - MS);
    assert_eq!(world.state(0, Family::V4), QuestionStatus::Answered);
    assert_eq!(world.state(0, Family::V6), QuestionStatus::Denied);
    world.at(WINDOW);
    assert_eq!(world.state(0, Family::V4), QuestionStatus::Expired);
    assert_eq!(world.state(0, Family::V6), QuestionStatus::Expired);
    assert_eq!(world.state(1, Family::V6), QuestionStatus::Unasked);

    let all = [
        (QuestionStatus::Unasked, "unasked"),
        (QuestionStatus::Answered, "answered"),
        (QuestionStatus::Denied, "denied"),
        (QuestionStatus::Failing, "failing"),
        (QuestionStatus::GivenUp, "failed"),
        (QuestionStatus::Expired, "expired"),
        (QuestionStatus::NotAsked, "not-asked"),
    ];
    for (status, name) in all {
        assert_eq!(status.as_str(), name);
    }
}

#[test]
fn the_effect_of_a_failing_question_is_known_until_its_window_ends() {
    let mut world = World::new(1);
    let of = |world: &World| world.set.standing(&question(0, Family::V4), world.now);
    world.fail(0, Family::V4, ResolveErrorKind::Timeout);
    assert_eq!(of(&world), Some(Standing::Unknown));
    world.answer(0, Family::V4, 60, &["20.0.0.1"]);
    world
        .at(60 * SECOND)
        .fail(0, Family::V4, ResolveErrorKind::Timeout);
    let in_use = Standing::InUse {
        until: world.start + WINDOW,
        restored: false,
    };
    world.at(WINDOW - MS);
    assert_eq!(of(&world), Some(in_use));
    world.at(WINDOW);
    assert_eq!(of(&world), Some(Standing::Over));
    let unknown = question(7, Family::V4);
    assert_eq!(world.set.standing(&unknown, world.now), None);
}

#[test]
fn questions_of_the_set_and_of_watched_hosts_are_known_and_no_others() {
    let mut world = World::new(1);
    world.set.watch([host(9)], world.now);
    assert!(world.set.is_watched(&question(9, Family::V4)));
    assert!(!world.set.is_watched(&question(0, Family::V4)));
    for number in [0, 9] {
        for family in Family::ALL {
            let question = question(number, family);
            assert!(world.set.is_unasked(&question), "{question}");
            assert_eq!(world.set.due_at(&question), Some(world.start), "{question}");
        }
    }
    assert!(!world.set.is_unasked(&question(7, Family::V4)));
    assert_eq!(world.set.due_at(&question(7, Family::V4)), None);

    assert!(!world.set.is_watched_attempted());
    world.answer(9, Family::V4, 300, &["20.9.0.1"]);
    assert!(!world.set.is_unasked(&question(9, Family::V4)));
    let due_at = world.set.due_at(&question(9, Family::V4));
    assert_eq!(due_at, Some(world.start + 300 * SECOND));
    assert!(!world.set.is_watched_attempted(), "AAAA is missing");
    world.fail(9, Family::V6, ResolveErrorKind::Timeout);
    assert!(world.set.is_watched_attempted());
    assert!(world.set.is_unasked(&question(0, Family::V4)));
}

#[test]
fn the_rules_of_a_set_are_those_that_it_was_created_with() {
    let rules = Rules {
        max_addresses: 7,
        ..Rules::default()
    };
    assert_eq!(World::with(1, rules.clone()).set.rules(), &rules);
}

#[test]
fn a_sleep_of_the_machine_is_a_part_of_a_ttl_and_of_a_window() {
    let mut world = World::new(1);
    world.answer(0, Family::V4, 60, &["20.0.0.1"]);
    let ttl = 60 * SECOND + Rules::default().refresh_time();
    world.set.slept(ttl - MS, world.now);
    assert_eq!(world.verdict("20.0.0.1"), "fresh");
    let answered_at = world.set.gauges(world.now).last_answer;
    assert_eq!(answered_at, Some(world.start - (ttl - MS)));
    world.set.slept(MS, world.now);
    assert_eq!(world.verdict("20.0.0.1"), "stale");
}
