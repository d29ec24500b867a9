use super::*;

#[test]
fn addresses_of_a_removed_host_are_removed_at_once_and_those_of_others_stay() {
    let mut world = World::new(2);
    world.answer_each(60);
    world
        .at(30 * SECOND)
        .answer(1, Family::V4, 60, &["20.0.1.2"]);
    assert_eq!(world.verdict("20.0.1.1"), "lingering");
    let notices = world.set.replace_hosts([host(0)], world.now);
    assert_eq!(changes(&notices), [("h1.psp.test".to_owned(), 0, 2)]);
    assert_eq!(world.verdict("20.0.0.1"), "fresh");
    assert_eq!(world.verdict("20.0.1.1"), "not-listed");
    assert_eq!(world.verdict("20.0.1.2"), "not-listed");
}

#[test]
fn a_host_that_is_put_back_starts_anew() {
    let mut world = World::new(2);
    world.answer_each(60);
    world.set.replace_hosts([host(0)], world.now);
    world.set.replace_hosts([host(0), host(1)], world.now);
    assert_eq!(world.verdict("20.0.1.1"), "unresolved");
    assert_eq!(world.due_in(1, Family::V4), Duration::ZERO);
}

#[test]
fn a_host_that_is_configured_twice_is_one_host() {
    let mut world = World::new(1);
    world
        .set
        .replace_hosts([host(0), host(1), host(0)], world.now);
    assert_eq!(world.set.hosts().count(), 2);
}
