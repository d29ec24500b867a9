//! Tests of rule 8: watched hosts.

use super::*;

const WATCHED: &str = "20.9.0.1";

/// Creates a world of two hosts, and the watched host `h9` in the same zone.
fn world() -> World {
    let mut world = World::new(2);
    world.set.watch([host(9)], world.now);
    world
}

fn explanation(world: &World, peer: &str) -> Option<String> {
    let verdict = world.set.verdict(peer.parse().unwrap(), world.now);
    verdict.rejection()?.explanation()
}

#[test]
fn a_peer_that_a_watched_host_names_is_rejected_with_a_reason_of_its_own() {
    let mut world = world();
    world.answer_each(300);
    world.answer(9, Family::V4, 300, &[WATCHED]);
    assert_eq!(world.verdict(WATCHED), "wrong-environment");
    assert_eq!(
        explanation(&world, WATCHED).as_deref(),
        Some("20.9.0.1 is h9.psp.test, which this list watches; this list does not admit it")
    );
    assert_eq!(world.verdict("20.9.0.2"), "not-listed");
    assert_eq!(explanation(&world, "20.9.0.2"), None);
    assert_eq!(world.verdict("::ffff:20.9.0.1"), "wrong-environment");
    // The answer of a watched host is in use for as long as the answer of an admitted host.
    world.at(24 * HOUR + 300 * SECOND - MS);
    world.answer_each(300);
    assert_eq!(world.verdict(WATCHED), "wrong-environment");
    world.at(24 * HOUR + 300 * SECOND);
    assert_eq!(world.verdict(WATCHED), "not-listed");
}

#[test]
fn new_windows_hold_for_watched_hosts_as_well() {
    let mut world = world();
    world.answer_each(300);
    world.answer(9, Family::V4, 300, &[WATCHED]);
    world.set.replace_windows(HOUR, HOUR, world.now);
    world.at(HOUR + 300 * SECOND - MS);
    world.answer_each(300);
    assert_eq!(world.verdict(WATCHED), "wrong-environment");
    world.at(HOUR + 300 * SECOND);
    assert_eq!(world.verdict(WATCHED), "not-listed");
}

#[test]
fn an_undecided_set_stays_undecided() {
    let mut world = world();
    world.answer(9, Family::V4, 300, &[WATCHED]);
    assert_eq!(world.verdict(WATCHED), "unresolved");
    world.answer(0, Family::V4, 300, &[&own_address(0)]);
    assert_eq!(world.verdict(WATCHED), "unresolved", "one host is missing");
    world.answer(1, Family::V4, 300, &[&own_address(1)]);
    assert_eq!(world.verdict(WATCHED), "wrong-environment");
}

#[test]
fn an_address_of_both_a_host_and_a_watched_one_is_admitted() {
    let mut world = world();
    world.answer_each(300);
    world.answer(9, Family::V4, 300, &[&own_address(0)]);
    assert_eq!(world.verdict(&own_address(0)), "fresh");
    let networks = ["20.9.0.0/24".parse().unwrap()];
    world.answer(9, Family::V4, 300, &[WATCHED]);
    world.set.replace_networks(&networks, world.now).unwrap();
    assert_eq!(world.verdict(WATCHED), "static");
}

#[test]
fn a_watched_host_confirms_no_denial() {
    let mut world = world();
    world.answer_each(300);
    world.at(SECOND);
    world.fail(0, Family::V4, ResolveErrorKind::NxDomain);
    world.at(2 * SECOND);
    // The watched host is in the same zone, and its answer is not older than the denial.
    world.answer(9, Family::V4, 300, &[WATCHED]);
    assert_eq!(world.state(0, Family::V4), QuestionStatus::Failing);
    world.answer(1, Family::V4, 300, &[&own_address(1)]);
    assert_eq!(world.state(0, Family::V4), QuestionStatus::Denied);
}

#[test]
fn a_watched_host_gives_no_host_up() {
    let mut world = World::new(1);
    world.set.watch([host(9)], world.now);
    for hour in 0..30 {
        world.at(hour * HOUR);
        world.fail(0, Family::V4, ResolveErrorKind::ServFail);
        world.answer(9, Family::V4, 3600, &[WATCHED]);
    }
    assert_eq!(world.state(0, Family::V4), QuestionStatus::Failing);
    assert_eq!(world.verdict(WATCHED), "unresolved");
    assert_eq!(world.verdict("20.0.9.9"), "unresolved");
}

#[test]
fn a_watched_host_has_no_effect_on_readiness_health_and_the_saved_state() {
    let mut world = world();
    world.answer(9, Family::V4, 300, &[WATCHED]);
    world.fail(9, Family::V6, ResolveErrorKind::NoData);
    assert!(!world.set.is_ready(world.now) && !world.set.is_attempted());
    world.answer_each(300);
    let names = |set: &AllowSet| set.health(world.now).len();
    assert_eq!(names(&world.set), 2);
    assert_eq!(world.set.hosts().count(), 2);
    assert_eq!(world.set.save().len(), 2);
    assert_eq!(world.set.questions().count(), 4);
    let admitted = world.set.addresses(world.now);
    assert!(
        !admitted.contains(&WATCHED.parse().unwrap()),
        "{admitted:?}"
    );
    // Failures of the watched host are not failures of the set.
    world.fail(9, Family::V4, ResolveErrorKind::ServFail);
    assert!(world.set.is_ready(world.now));
    let now = world.now;
    assert_eq!(world.set.gauges(now).last_answer, Some(now));
    world.at(SECOND);
    world.answer(9, Family::V4, 300, &[WATCHED]);
    assert_eq!(world.set.gauges(world.now).last_answer, Some(now));
}

#[test]
fn a_change_of_a_watched_host_is_reported_as_such_and_its_failures_are_not() {
    let mut world = world();
    let notices = world.apply(9, Family::V4, Ok(answer(300, &[WATCHED, "192.168.0.1"])));
    assert!(
        matches!(&notices[..], [Notice::WatchedChanged(change)] if change.added.len() == 1),
        "{notices:?}"
    );
    let failed = Err(ResolveError::new(ResolveErrorKind::ServFail));
    assert!(world.apply(9, Family::V4, failed).is_empty());
}

#[test]
fn a_watched_host_that_is_admitted_is_watched_no_longer() {
    let mut world = world();
    world.answer_each(300);
    world.answer(9, Family::V4, 300, &[WATCHED]);
    world.set.replace_hosts([host(9)], world.now);
    assert_eq!(world.set.watched().count(), 0);
    // The answer that arrived while the host was watched admits no peer.
    assert_eq!(world.verdict(WATCHED), "unresolved");
    world.answer(9, Family::V4, 300, &["20.9.0.2"]);
    assert_eq!(world.verdict("20.9.0.2"), "fresh");
    assert_eq!(world.verdict(WATCHED), "not-listed");
    world.set.watch([host(9)], world.now);
    assert_eq!(world.set.watched().count(), 0);
}

#[test]
fn a_sleep_of_the_machine_makes_watched_answers_older_too() {
    let mut world = world();
    world.answer_each(300);
    world.answer(9, Family::V4, 300, &[WATCHED]);
    world.set.slept(24 * HOUR + 300 * SECOND, world.now);
    world.answer_each(300);
    assert_eq!(world.verdict(WATCHED), "not-listed");
}
