use super::*;

#[test]
fn the_last_answer_stays_in_use_through_every_kind_of_failure_until_the_window_ends() {
    for kind in FAILURES {
        let mut world = World::new(1);
        world.answer(0, Family::V4, 60, &["20.0.0.1"]);
        world.at(60 * SECOND).fail(0, Family::V4, kind);
        assert_eq!(world.verdict("20.0.0.1"), "stale", "{kind:?}");
        assert_eq!(world.verdict("20.0.9.9"), "not-listed", "{kind:?}");
        world.at(60 * SECOND + 24 * HOUR - MS);
        assert_eq!(world.verdict("20.0.0.1"), "stale", "{kind:?}");
        world.at(60 * SECOND + 24 * HOUR);
        assert_eq!(world.verdict("20.0.0.1"), "unresolved", "{kind:?}");
        assert_eq!(world.verdict("20.0.9.9"), "unresolved", "{kind:?}");
    }
}

#[test]
fn a_dead_refresher_fails_closed() {
    let mut world = World::new(1);
    world.answer_each(60);
    world.at(60 * SECOND + 24 * HOUR);
    assert_eq!(world.verdict("20.0.0.1"), "unresolved");
    assert_eq!(world.verdict("2a01::1"), "unresolved");
    assert!(!world.set.is_ready(world.now));
}

#[test]
fn linger_and_stale_are_independent_windows() {
    let rules = Rules {
        stale_for: 600 * SECOND,
        ..Rules::default()
    };
    let mut world = World::with(1, rules);
    world.answer(0, Family::V4, 60, &["20.0.0.1"]);
    world
        .at(60 * SECOND)
        .answer(0, Family::V4, 60, &["20.0.0.2"]);
    world
        .at(120 * SECOND)
        .fail(0, Family::V4, ResolveErrorKind::Timeout);
    world.at(120 * SECOND + 600 * SECOND);
    assert_eq!(world.verdict("20.0.0.2"), "unresolved", "stale has ended");
    assert_eq!(
        world.verdict("20.0.0.1"),
        "lingering",
        "its own window is open"
    );
    world.at(60 * SECOND + HOUR);
    assert_eq!(world.verdict("20.0.0.1"), "unresolved");
}

#[test]
fn a_failure_before_any_answer_is_unresolved_whatever_its_kind() {
    for kind in FAILURES.into_iter().chain([ResolveErrorKind::NxDomain]) {
        let mut world = World::new(1);
        world.fail(0, Family::V4, kind);
        assert_eq!(world.verdict("20.0.0.1"), "unresolved", "{kind:?}");
        assert!(world.set.addresses(world.now).is_empty());
    }
}

#[test]
fn a_replaced_stale_window_applies_to_answers_in_use_and_brings_none_back() {
    let mut world = World::new(1);
    world.answer(0, Family::V4, 60, &["20.0.0.1"]);
    let replace = |world: &mut World, stale_for| {
        world.set.replace_windows(HOUR, stale_for, world.now);
    };
    let end = 60 * SECOND + 24 * HOUR;
    replace(world.at(end - SECOND), 25 * HOUR);
    assert_eq!(world.at(end).verdict("20.0.0.1"), "stale");
    replace(&mut world, 24 * HOUR);
    assert_eq!(world.verdict("20.0.0.1"), "unresolved");
    replace(&mut world, 48 * HOUR);
    assert_eq!(world.verdict("20.0.0.1"), "unresolved");
}

#[test]
fn a_longer_stale_window_brings_back_no_address_whose_end_was_not_reported_yet() {
    let mut world = World::new(1);
    world.answer(0, Family::V4, 60, &["20.0.0.1"]);
    world.at(60 * SECOND + 24 * HOUR);
    world.set.replace_windows(HOUR, 48 * HOUR, world.now);
    assert_eq!(world.verdict("20.0.0.1"), "unresolved");
}
