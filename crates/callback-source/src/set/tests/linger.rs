use super::*;

#[test]
fn an_address_that_left_the_answer_lingers_for_its_window_and_not_longer() {
    let mut world = World::new(1);
    world.answer(0, Family::V4, 60, &["20.0.0.1"]);
    world
        .at(60 * SECOND)
        .answer(0, Family::V4, 600, &["20.0.0.2"]);
    assert_eq!(world.verdict("20.0.0.1"), "lingering");
    // Later answers that also omit the address do not prolong its window.
    world
        .at(1000 * SECOND)
        .answer(0, Family::V4, 3600, &["20.0.0.2"]);
    world.at(60 * SECOND + HOUR - MS);
    assert_eq!(world.verdict("20.0.0.1"), "lingering");
    world.at(60 * SECOND + HOUR);
    assert_eq!(world.verdict("20.0.0.1"), "not-listed");
}

#[test]
fn an_address_that_comes_back_is_fresh_again_and_nothing_is_reported() {
    let mut world = World::new(1);
    world.answer(0, Family::V4, 60, &["20.0.0.1"]);
    world
        .at(60 * SECOND)
        .answer(0, Family::V4, 60, &["20.0.0.2"]);
    let outcome = Ok(answer(60, &["20.0.0.1", "20.0.0.2"]));
    let notices = world.at(120 * SECOND).apply(0, Family::V4, outcome);
    assert_eq!(changes(&notices), []);
    assert_eq!(world.verdict("20.0.0.1"), "fresh");
    world.at(60 * SECOND + HOUR);
    assert_eq!(
        world.verdict("20.0.0.1"),
        "stale",
        "the old window must not cut the answer short"
    );
}

/// Longest time that a refresh can take: one second, the maximum jitter, and the time limit of a question.
const REFRESH_TIME: Duration = Duration::from_millis(6_500);

#[test]
fn one_answer_that_omits_an_address_never_removes_it_whatever_the_ttl() {
    let windows = [0, 1, 5, 60, 600, 3600, 7200].map(|seconds| seconds * SECOND);
    for (linger, max_ttl) in windows
        .iter()
        .flat_map(|one| windows.map(|two| (*one, two)))
    {
        let rules = Rules {
            linger,
            max_ttl,
            stale_for: SECOND,
            ..Rules::default()
        };
        let ttl = rules.clamp(max_ttl);
        let mut world = World::with(1, rules);
        world.answer(0, Family::V4, 7200, &["20.0.0.1", "20.0.0.2"]);
        world.at(ttl).answer(0, Family::V4, 7200, &["20.0.0.1"]);
        let until = ttl + linger.max(ttl + REFRESH_TIME);
        if linger.is_zero() {
            assert_eq!(world.verdict("20.0.0.2"), "not-listed", "lingering is off");
            continue;
        }
        world.at(2 * ttl + REFRESH_TIME - MS);
        assert_eq!(world.verdict("20.0.0.2"), "lingering", "{linger:?} {ttl:?}");
        let mut after = World { ..world };
        after.at(until - MS);
        assert_eq!(after.verdict("20.0.0.2"), "lingering", "{linger:?} {ttl:?}");
        after.at(until);
        assert_ne!(after.verdict("20.0.0.2"), "lingering", "{linger:?} {ttl:?}");
    }
}

#[test]
fn a_denied_question_is_asked_again_before_its_addresses_stop_lingering() {
    for (linger, negative_ttl, due_in) in [
        (HOUR, 3600, 900),
        (HOUR, 60, 60),
        (60 * SECOND, 3600, 15),
        (8 * SECOND, 3600, 5),
        (SECOND, 3600, 5),
    ] {
        let rules = Rules {
            linger,
            ..Rules::default()
        };
        let mut world = World::with(2, rules);
        world.answer_each(60);
        let denied = || {
            let error = ResolveError::new(ResolveErrorKind::NxDomain);
            Err(error.with_negative_ttl(negative_ttl * SECOND))
        };
        world.at(60 * SECOND);
        world.answer(1, Family::V4, 3600, &["20.0.1.1"]);
        world.apply(0, Family::V4, denied());
        assert_eq!(world.state(0, Family::V4), QuestionStatus::Denied);
        assert_eq!(world.due_in(0, Family::V4), due_in * SECOND, "{linger:?}");
        let asked_again = 60 * SECOND + due_in * SECOND + REFRESH_TIME;
        world.at(asked_again - MS);
        assert_eq!(world.verdict("20.0.0.1"), "lingering", "{linger:?}");
        if asked_again < 60 * SECOND + linger {
            world.apply(0, Family::V4, denied());
            assert_eq!(world.due_in(0, Family::V4), due_in * SECOND, "{linger:?}");
        }
        world.at(60 * SECOND + 2 * HOUR);
        world.answer(1, Family::V4, 3600, &["20.0.1.1"]);
        world.apply(0, Family::V4, denied());
        let due_in = negative_ttl * SECOND;
        assert_eq!(world.due_in(0, Family::V4), due_in, "nothing lingers");
    }
}

#[test]
fn rotating_subsets_do_not_flap() {
    let mut world = World::new(1);
    let all: Vec<_> = (0..40).map(|n| format!("20.0.0.{n}")).collect();
    let mut reported = 0;
    for round in 0..20u32 {
        let first = (round as usize * 8) % 40;
        let subset: Vec<_> = all[first..first + 8].iter().map(String::as_str).collect();
        let notices = world
            .at(round * 30 * SECOND)
            .apply(0, Family::V4, Ok(answer(30, &subset)));
        reported += changes(&notices).len();
    }
    assert_eq!(reported, 5, "each subset is new once");
    assert!(
        all.iter()
            .all(|address| world.verdict(address) != "not-listed")
    );
}

#[test]
fn the_oldest_addresses_are_removed_first_when_too_many_linger() {
    let rules = Rules {
        max_lingering: 2,
        ..Rules::default()
    };
    let mut world = World::with(1, rules);
    for round in 0..4u32 {
        let outcome = Ok(answer(60, &[&format!("20.0.0.{round}")]));
        let notices = world.at(round * 60 * SECOND).apply(0, Family::V4, outcome);
        let limit_reached = notices
            .iter()
            .any(|notice| matches!(notice, Notice::LingerLimitReached { .. }));
        assert_eq!(limit_reached, round == 3);
    }
    let verdicts: Vec<_> = (0..4)
        .map(|n| world.verdict(&format!("20.0.0.{n}")))
        .collect();
    assert_eq!(verdicts, ["not-listed", "lingering", "lingering", "fresh"]);
}

#[test]
fn an_address_that_was_no_longer_admitted_does_not_come_back_by_lingering() {
    let mut world = World::new(1);
    world.answer(0, Family::V4, 60, &["20.0.0.1"]);
    world
        .at(60 * SECOND)
        .fail(0, Family::V4, ResolveErrorKind::Timeout);
    world.at(60 * SECOND + 24 * HOUR);
    assert_eq!(world.verdict("20.0.0.1"), "unresolved");
    world.answer(0, Family::V4, 60, &["20.0.0.2"]);
    assert_eq!(world.verdict("20.0.0.1"), "not-listed");
}

#[test]
fn an_address_that_moves_between_hosts_is_never_refused() {
    let mut world = World::new(2);
    world.answer_each(60);
    world
        .at(60 * SECOND)
        .answer(0, Family::V4, 60, &["20.0.0.2"]);
    assert_eq!(world.verdict("20.0.0.1"), "lingering");
    world.answer(1, Family::V4, 60, &["20.0.0.1"]);
    assert_eq!(world.verdict("20.0.0.1"), "fresh");
}
