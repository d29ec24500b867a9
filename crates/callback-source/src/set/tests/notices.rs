use super::*;

#[test]
fn a_change_is_reported_once_when_it_happens() {
    let mut world = World::new(1);
    let notices = world.apply(0, Family::V4, Ok(answer(60, &["20.0.0.1", "20.0.0.2"])));
    assert_eq!(changes(&notices), [("h0.psp.test".to_owned(), 2, 0)]);
    let outcome = Ok(answer(60, &["20.0.0.2", "20.0.0.3"]));
    let notices = world.at(60 * SECOND).apply(0, Family::V4, outcome);
    assert_eq!(
        changes(&notices),
        [("h0.psp.test".to_owned(), 1, 0)],
        "it still lingers"
    );
    world.answer(0, Family::V4, 3600, &["20.0.0.2", "20.0.0.3"]);
    let ends = 60 * SECOND + HOUR;
    world.at(ends - MS);
    assert_eq!(changes(&world.set.expire(world.now)), []);
    assert_eq!(
        world.set.next_change_at(world.now),
        Some(world.start + ends)
    );
    world.at(ends);
    assert_eq!(
        changes(&world.set.expire(world.now)),
        [("h0.psp.test".to_owned(), 0, 1)]
    );
    assert_eq!(changes(&world.set.expire(world.now)), []);
}

#[test]
fn a_recovery_is_reported_with_the_time_of_the_first_failure() {
    let mut world = World::new(1);
    world.fail(0, Family::V4, ResolveErrorKind::Timeout);
    world
        .at(SECOND)
        .fail(0, Family::V4, ResolveErrorKind::ServFail);
    let notices = world
        .at(2 * SECOND)
        .apply(0, Family::V4, Ok(answer(60, &["20.0.0.1"])));
    let since = notices.iter().find_map(|notice| match notice {
        Notice::Recovered { failing_since, .. } => Some(*failing_since),
        _ => None,
    });
    assert_eq!(since, Some(world.start));
}

#[test]
fn a_denial_that_is_believed_ends_a_failure_at_once_or_later() {
    let recovered = |notices: &[Notice]| {
        notices
            .iter()
            .filter(|notice| matches!(notice, Notice::Recovered { .. }))
            .count()
    };
    let mut world = World::new(2);
    world.fail(0, Family::V6, ResolveErrorKind::Timeout);
    world.answer(1, Family::V4, 60, &["20.0.0.1"]);
    let denial = || Err(ResolveError::new(ResolveErrorKind::NoData));
    let notices = world.at(SECOND).apply(0, Family::V6, denial());
    assert_eq!(recovered(&notices), 1);
    let is_failure = |notice: &Notice| matches!(notice, Notice::Failed { .. });
    assert!(!notices.iter().any(is_failure), "{notices:?}");

    let mut world = World::new(2);
    let notices = world.apply(0, Family::V6, denial());
    assert_eq!(recovered(&notices), 0, "no answer confirms it");
    let notices = world.apply(1, Family::V4, Ok(answer(60, &["20.0.0.1"])));
    assert_eq!(recovered(&notices), 1);
}
