use super::*;

#[test]
fn a_ttl_is_clamped_at_both_ends() {
    for (ttl, due_in) in [(0, 5), (1, 5), (5, 5), (6, 6), (3600, 3600), (3601, 3600)] {
        let mut world = World::new(1);
        world.answer(0, Family::V4, ttl, &["20.0.0.1"]);
        assert_eq!(world.due_in(0, Family::V4), due_in * SECOND, "{ttl}");
    }
    let mut world = World::new(1);
    let forever = Answer::new(["20.0.0.1".parse().unwrap()], Duration::MAX);
    world.apply(0, Family::V4, Ok(forever));
    assert_eq!(world.due_in(0, Family::V4), HOUR);
}

#[test]
fn an_expired_answer_is_fresh_while_it_is_refreshed_and_then_stale() {
    let mut world = World::new(1);
    let refresh_time = world.set.rules.refresh_time();
    world.answer(0, Family::V4, 60, &["20.0.0.1"]);
    for (at, expected) in [
        (60 * SECOND - MS, "fresh"),
        (60 * SECOND, "fresh"),
        (60 * SECOND + refresh_time - MS, "fresh"),
        (60 * SECOND + refresh_time, "stale"),
    ] {
        world.at(at);
        assert_eq!(world.verdict("20.0.0.1"), expected, "{at:?}");
    }
}

#[test]
fn no_gap_opens_at_the_end_of_the_ttl_even_without_a_stale_window() {
    let rules = Rules {
        stale_for: Duration::ZERO,
        linger: Duration::ZERO,
        ..Rules::default()
    };
    let mut world = World::with(1, rules);
    world.answer(0, Family::V4, 60, &["20.0.0.1"]);
    world.at(60 * SECOND + 500 * MS);
    assert_eq!(world.verdict("20.0.0.1"), "fresh");
    world.fail(0, Family::V4, ResolveErrorKind::Timeout);
    assert_eq!(world.verdict("20.0.0.1"), "unresolved");
}

#[test]
fn an_expired_answer_stays_in_use_for_as_long_as_its_refresh_can_take() {
    for limit in [1, 5, 20, 120].map(|seconds| seconds * SECOND) {
        let rules = Rules {
            stale_for: Duration::ZERO,
            question_time_limit: limit,
            ..Rules::default()
        };
        let mut world = World::with(1, rules);
        world.answer(0, Family::V4, 60, &["20.0.0.1"]);
        world.fail(0, Family::V6, ResolveErrorKind::NoData);
        let until = 60 * SECOND + 1500 * MS + limit;
        world.at(until - MS);
        assert_eq!(world.verdict("20.0.0.1"), "fresh", "{limit:?}");
        assert_eq!(world.verdict("2a01::1"), "not-listed", "{limit:?}");
        world.at(until);
        assert_eq!(world.verdict("20.0.0.1"), "unresolved", "{limit:?}");
        assert_eq!(world.verdict("2a01::1"), "unresolved", "{limit:?}");
    }
}

#[test]
fn an_endless_time_limit_does_not_panic() {
    let rules = Rules {
        question_time_limit: Duration::MAX,
        ..Rules::default()
    };
    let mut world = World::with(1, rules);
    world.answer(0, Family::V4, 60, &["20.0.0.1", "20.0.0.2"]);
    world.answer(0, Family::V4, 60, &["20.0.0.1"]);
    world.fail(0, Family::V4, ResolveErrorKind::Timeout);
    assert_eq!(world.verdict("20.0.0.2"), "lingering");
}

#[test]
fn ttl_bounds_that_cross_do_not_panic() {
    let rules = Rules {
        min_ttl: 2 * HOUR,
        ..Rules::default()
    };
    let mut world = World::with(1, rules);
    world.answer(0, Family::V4, 60, &["20.0.0.1"]);
    assert_eq!(world.due_in(0, Family::V4), 2 * HOUR);
}
