use super::*;

#[test]
fn ready_when_every_question_was_attempted_and_an_address_is_admitted() {
    let mut world = World::new(2);
    world.answer(0, Family::V4, 60, &["20.0.0.1"]);
    world.fail(0, Family::V6, ResolveErrorKind::NoData);
    world.fail(1, Family::V4, ResolveErrorKind::Timeout);
    assert!(!world.set.is_attempted() && !world.set.is_ready(world.now));
    world.fail(1, Family::V6, ResolveErrorKind::Timeout);
    assert!(world.set.is_attempted() && world.set.is_ready(world.now));
}

#[test]
fn not_ready_while_no_address_is_admitted() {
    let mut world = World::new(1);
    world.fail(0, Family::V4, ResolveErrorKind::Timeout);
    world.fail(0, Family::V6, ResolveErrorKind::Timeout);
    assert!(world.set.is_attempted() && !world.set.is_ready(world.now));
    world.answer(0, Family::V4, 60, &["20.0.0.1"]);
    assert!(world.set.is_ready(world.now));
    world.fail(0, Family::V4, ResolveErrorKind::Timeout);
    world.at(60 * SECOND + 24 * HOUR - MS);
    assert!(world.set.is_ready(world.now));
    world.at(60 * SECOND + 24 * HOUR);
    assert!(!world.set.is_ready(world.now));
}

#[test]
fn a_host_that_is_added_later_does_not_make_the_set_unready() {
    let mut world = World::new(1);
    world.answer_each(60);
    world.set.replace_hosts([host(0), host(1)], world.now);
    assert!(world.set.is_ready(world.now));
}
