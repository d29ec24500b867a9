use std::collections::BTreeMap;

use super::*;

fn restart(world: &World, rules: Rules, hosts: &[usize], now: Instant) -> World {
    world.restarted(rules, hosts.iter().map(|number| host(*number)), now)
}

#[test]
fn restored_answers_are_in_use_until_dns_confirms_or_replaces_them() {
    let mut world = World::new(2);
    world.answer_each(60);
    let mut again = restart(&world, Rules::default(), &[0, 1], world.start + 10 * SECOND);
    assert_eq!(again.verdict("20.0.0.1"), "restored");
    assert_eq!(again.verdict("20.0.9.9"), "not-listed");
    assert_eq!(
        again.due_in(0, Family::V4),
        Duration::ZERO,
        "DNS is asked at once"
    );
    again.answer(0, Family::V4, 60, &["20.0.0.1"]);
    assert_eq!(again.verdict("20.0.0.1"), "fresh");
    again.answer(1, Family::V4, 60, &["20.0.1.2"]);
    assert_eq!(again.verdict("20.0.1.1"), "lingering");
}

#[test]
fn no_number_of_restarts_extends_a_window() {
    let mut world = World::new(1);
    world.answer(0, Family::V4, 60, &["20.0.0.1"]);
    world
        .at(60 * SECOND)
        .answer(0, Family::V4, 60, &["20.0.0.2"]);
    for hour in 1..60 {
        let now = world.start + hour * HOUR / 2;
        world = restart(&world, Rules::default(), &[0], now);
        world.fail(0, Family::V4, ResolveErrorKind::Timeout);
        let linger_open = now < world.start + 60 * SECOND + HOUR;
        let stale_open = now < world.start + 120 * SECOND + 24 * HOUR;
        assert_eq!(
            world.verdict("20.0.0.1") == "lingering",
            linger_open,
            "{hour}"
        );
        assert_eq!(
            world.verdict("20.0.0.2") == "restored",
            stale_open,
            "{hour}"
        );
    }
    assert_eq!(world.verdict("20.0.0.2"), "unresolved");
}

#[test]
fn a_restart_starts_the_window_for_giving_up_anew() {
    let mut world = World::new(2);
    for hour in 0..=52 {
        world
            .at(hour * HOUR)
            .answer(0, Family::V4, 3600, &["20.0.0.1"]);
        world.fail(1, Family::V4, ResolveErrorKind::Timeout);
        if hour == 20 {
            world = restart(&world, Rules::default(), &[0, 1], world.now);
        }
        let expected = if hour < 45 {
            "unresolved"
        } else {
            "not-listed"
        };
        assert_eq!(world.verdict("20.0.9.9"), expected, "{hour}");
    }
}

#[test]
fn a_host_that_fails_once_after_a_long_stop_is_not_given_up() {
    let mut world = World::new(2);
    world.answer_each(60);
    let start = world.start + 48 * HOUR;
    let mut again = restart(&world, Rules::default(), &[0, 1], start);
    again.fail(0, Family::V4, ResolveErrorKind::ServFail);
    again.at(48 * HOUR + 5 * MS);
    again.answer(1, Family::V4, 60, &["20.0.1.1"]);
    assert_eq!(again.verdict("20.0.0.1"), "unresolved");
    assert_eq!(again.state(0, Family::V4), QuestionStatus::Failing);
}

#[test]
fn restored_answers_do_not_give_a_host_up() {
    let short = Rules {
        stale_for: 10 * SECOND,
        ..Rules::default()
    };
    let mut world = World::with(2, short.clone());
    world.answer(1, Family::V4, 3600, &["20.0.1.1"]);
    let mut again = restart(&world, short, &[0, 1], world.start + SECOND);
    for second in [1, 6, 11] {
        again
            .at(second * SECOND)
            .fail(0, Family::V4, ResolveErrorKind::Timeout);
    }
    assert_eq!(again.verdict("20.0.9.9"), "unresolved");
    again.answer(1, Family::V4, 3600, &["20.0.1.1"]);
    assert_eq!(again.verdict("20.0.9.9"), "not-listed");
}

#[test]
fn the_end_of_lingering_is_kept_and_bounded_by_today_s_rules() {
    let mut world = World::new(1);
    world.answer(0, Family::V4, 60, &["20.0.0.1", "20.0.0.2"]);
    world
        .at(60 * SECOND)
        .answer(0, Family::V4, 3600, &["20.0.0.1"]);
    let until = 60 * SECOND + HOUR + world.set.rules.refresh_time();
    let rules = |linger, max_ttl| Rules {
        linger,
        max_ttl,
        ..Rules::default()
    };
    let refresh_time = Rules::default().refresh_time();
    for (rules, until) in [
        (Rules::default(), until),
        (rules(2 * HOUR, HOUR), until),
        (rules(SECOND, HOUR), until),
        (rules(SECOND, 600 * SECOND), 660 * SECOND + refresh_time),
        (rules(900 * SECOND, 600 * SECOND), 960 * SECOND),
        (rules(Duration::ZERO, HOUR), 60 * SECOND),
    ] {
        let mut again = restart(&world, rules, &[0], world.now);
        again.answer(0, Family::V4, 3600, &["20.0.0.1"]);
        if 60 * SECOND < until {
            again.at(until - MS);
            assert_eq!(again.verdict("20.0.0.2"), "lingering", "{until:?}");
        }
        again.at(until);
        assert_eq!(again.verdict("20.0.0.2"), "not-listed", "{until:?}");
    }
}

#[test]
fn an_address_without_an_end_of_lingering_gets_the_linger_window() {
    let mut world = World::new(1);
    world.answer(0, Family::V4, 60, &["20.0.0.1"]);
    world
        .at(60 * SECOND)
        .answer(0, Family::V4, 3600, &["20.0.0.2"]);
    let mut saved = world.set.save();
    for lingering in saved[0].lingering.values_mut() {
        lingering.until = None;
    }
    let mut set = AllowSet::new(Rules::default(), [host(0)], &[], world.now).unwrap();
    set.restore(saved, world.now);
    world.set = set;
    world.at(60 * SECOND + HOUR - MS);
    assert_eq!(world.verdict("20.0.0.1"), "lingering");
    world.at(60 * SECOND + HOUR);
    assert_eq!(world.verdict("20.0.0.1"), "not-listed");
}

#[test]
fn times_that_today_s_rules_do_not_allow_are_cut_when_they_are_restored() {
    let now = now() + 100 * HOUR;
    let restored = |rules: Rules, answer: Option<LastAnswer>, denied, stale_from| {
        let mut set = AllowSet::new(rules, [host(0)], &[], now).unwrap();
        let questions = vec![PersistedQuestion {
            family: Family::V4,
            stale_from,
            denied,
            had_answer: answer.is_some(),
            answer,
        }];
        set.restore(
            vec![PersistedHost {
                host: host(0),
                questions,
                lingering: BTreeMap::new(),
            }],
            now,
        );
        World {
            set,
            start: now,
            now,
        }
    };
    let held = |answered_at, ttl_ends| LastAnswer {
        addresses: ["20.0.0.1".parse().unwrap()].into(),
        ttl: HOUR,
        answered_at,
        ttl_ends,
        restored: true,
    };
    let day = Rules::default().stale_for;

    // A future time of an answer is replaced by the current time.
    let answer = held(now + 50 * HOUR, now + 51 * HOUR);
    let mut world = restored(Rules::default(), Some(answer), false, now + 51 * HOUR);
    let verdict = world.set.verdict("20.0.0.1".parse().unwrap(), now);
    assert_eq!(verdict.allowed().unwrap().since(), now);
    world.at(HOUR + day - MS);
    assert_eq!(world.verdict("20.0.0.1"), "restored");
    world.at(HOUR + day);
    assert_eq!(world.verdict("20.0.0.1"), "unresolved");

    // A TTL above the current maximum is lowered to that maximum.
    let answer = held(now, now + 50 * HOUR);
    let short = Rules {
        max_ttl: 60 * SECOND,
        ..Rules::default()
    };
    let mut world = restored(short, Some(answer), false, now);
    world.at(60 * SECOND + day);
    assert_eq!(world.verdict("20.0.0.1"), "unresolved");

    // A future time of a denial is replaced by the current time.
    let mut world = restored(Rules::default(), None, true, now + 50 * HOUR);
    world.at(day - MS);
    assert_eq!(world.verdict("20.0.9.9"), "not-listed");
    world.at(day);
    assert_eq!(world.verdict("20.0.9.9"), "unresolved");
}

#[test]
fn no_more_addresses_linger_after_a_restart_than_today_s_limit() {
    let mut world = World::new(1);
    for number in 0..4 {
        let address = format!("20.0.0.{number}");
        world
            .at(number * 60 * SECOND)
            .answer(0, Family::V4, 60, &[&address]);
    }
    let few = Rules {
        max_lingering: 2,
        ..Rules::default()
    };
    let again = restart(&world, few, &[0], world.now);
    let verdicts = [0, 1, 2, 3].map(|number| again.verdict(&format!("20.0.0.{number}")));
    assert_eq!(
        verdicts,
        ["not-listed", "lingering", "lingering", "restored"]
    );
}

#[test]
fn an_address_whose_window_ends_at_the_restart_displaces_no_other() {
    let mut world = World::new(1);
    world.answer(0, Family::V4, 60, &["20.0.0.1", "20.0.0.2", "20.0.0.3"]);
    // 20.0.0.1 lingers until this answer has been refreshed. It therefore lingers for more than an hour.
    world
        .at(10 * SECOND)
        .answer(0, Family::V4, 3600, &["20.0.0.2", "20.0.0.3"]);
    world
        .at(11 * SECOND)
        .answer(0, Family::V4, 60, &["20.0.0.3"]);
    let one = Rules {
        max_lingering: 1,
        ..Rules::default()
    };
    let now = world.start + 11 * SECOND + HOUR;
    let again = restart(&world, one, &[0], now);
    assert_eq!(again.verdict("20.0.0.2"), "not-listed");
    assert_eq!(again.verdict("20.0.0.1"), "lingering");
}

#[test]
fn today_s_rules_and_hosts_apply_to_the_saved_state() {
    let insecure = Rules {
        insecure_allow_special_addresses: true,
        ..Rules::default()
    };
    let mut world = World::with(2, insecure);
    world.answer(0, Family::V4, 60, &["127.0.1.1", "20.0.0.1"]);
    world.answer(1, Family::V4, 60, &["20.0.1.1"]);
    let now = world.start + SECOND;
    let again = restart(&world, Rules::default(), &[0], now);
    assert_eq!(again.verdict("20.0.0.1"), "restored");
    assert_eq!(again.verdict("127.0.1.1"), "not-listed", "special-purpose");
    assert_eq!(again.verdict("20.0.1.1"), "not-listed", "no longer a host");
    let few = Rules {
        max_addresses: 1,
        ..Rules::default()
    };
    world.answer(0, Family::V4, 60, &["20.0.0.1", "20.0.0.2"]);
    assert_eq!(
        restart(&world, few, &[0], now).verdict("20.0.0.1"),
        "unresolved"
    );
    let short = Rules {
        stale_for: HOUR,
        ..Rules::default()
    };
    let later = restart(&world, short, &[1], world.start + 60 * SECOND + HOUR);
    assert_eq!(later.verdict("20.0.1.1"), "unresolved");
}

#[test]
fn lingering_addresses_are_restored_by_today_s_rules_and_not_from_the_future() {
    let insecure = Rules {
        insecure_allow_special_addresses: true,
        ..Rules::default()
    };
    let mut world = World::with(1, insecure);
    world.answer(0, Family::V4, 60, &["127.0.1.1", "20.0.0.1"]);
    world
        .at(60 * SECOND)
        .answer(0, Family::V4, 60, &["20.0.0.2"]);
    let again = restart(&world, Rules::default(), &[0], world.now);
    assert_eq!(again.verdict("20.0.0.1"), "lingering");
    assert_eq!(again.verdict("127.0.1.1"), "not-listed", "special-purpose");
    let early = restart(&world, Rules::default(), &[0], world.start);
    assert_eq!(early.verdict("20.0.0.1"), "not-listed", "not left yet");
}

#[test]
fn restored_answers_do_not_confirm_a_denial() {
    let mut world = World::new(2);
    world.answer_each(3600);
    let mut again = restart(&world, Rules::default(), &[0, 1], world.start + 10 * SECOND);
    again.fail(0, Family::V4, ResolveErrorKind::NxDomain);
    again.fail(1, Family::V4, ResolveErrorKind::NxDomain);
    assert_eq!(again.verdict("20.0.0.1"), "restored");
    assert_eq!(again.verdict("20.0.1.1"), "restored");
}
