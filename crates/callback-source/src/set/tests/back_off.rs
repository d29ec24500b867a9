use super::*;

#[test]
fn pauses_double_from_the_interval_floor_to_a_minute_and_start_over_after_an_answer() {
    for (least, pauses) in [
        (1, [1, 2, 4, 8, 16, 32, 60, 60]),
        (5, [5, 10, 20, 40, 60, 60, 60, 60]),
    ] {
        let rules = Rules {
            min_ttl: least * SECOND,
            ..Rules::default()
        };
        let mut world = World::with(1, rules);
        for pause in pauses {
            world.fail(0, Family::V4, ResolveErrorKind::Timeout);
            assert_eq!(world.due_in(0, Family::V4), pause * SECOND);
            assert_eq!(
                world.due_in(0, Family::V6),
                Duration::ZERO,
                "each question for itself"
            );
        }
        world.answer(0, Family::V4, 60, &["20.0.0.1"]);
        world.fail(0, Family::V4, ResolveErrorKind::Timeout);
        assert_eq!(world.due_in(0, Family::V4), pauses[0] * SECOND);
    }
}

#[test]
fn never_overflows() {
    let mut world = World::new(1);
    for _ in 0..100 {
        world.fail(0, Family::V4, ResolveErrorKind::Timeout);
    }
    assert_eq!(world.due_in(0, Family::V4), 60 * SECOND);
    let far = Rules {
        linger: Duration::MAX,
        stale_for: Duration::MAX,
        max_ttl: Duration::MAX,
        max_backoff: Duration::MAX,
        ..Rules::default()
    };
    let mut world = World::with(1, far);
    world.apply(
        0,
        Family::V4,
        Ok(Answer::new(["20.0.0.1".parse().unwrap()], Duration::MAX)),
    );
    world.answer(0, Family::V4, 60, &["20.0.0.2"]);
    for _ in 0..100 {
        world.fail(0, Family::V4, ResolveErrorKind::Timeout);
    }
    world.at(10_000 * HOUR);
    assert_eq!(world.verdict("20.0.0.1"), "lingering");
    assert_eq!(world.verdict("20.0.0.2"), "stale");
}
