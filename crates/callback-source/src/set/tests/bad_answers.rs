use super::*;

#[test]
fn special_purpose_addresses_are_dropped_and_the_rest_is_kept() {
    let mut world = World::new(1);
    let outcome = Ok(answer(
        60,
        &["127.0.0.1", "10.0.0.1", "20.0.0.1", "::ffff:192.168.0.1"],
    ));
    let notices = world.apply(0, Family::V4, outcome);
    let dropped = notices.iter().find_map(|notice| match notice {
        Notice::Dropped { addresses, .. } => Some(addresses.len()),
        _ => None,
    });
    assert_eq!(dropped, Some(3));
    assert_eq!(world.verdict("20.0.0.1"), "fresh");
    for peer in ["127.0.0.1", "10.0.0.1", "192.168.0.1"] {
        assert_eq!(world.verdict(peer), "not-listed", "{peer}");
    }
}

#[test]
fn an_answer_with_only_special_addresses_is_a_failure_and_the_old_one_is_kept() {
    let mut world = World::new(1);
    world.answer(0, Family::V4, 60, &["20.0.0.1"]);
    world
        .at(60 * SECOND)
        .answer(0, Family::V4, 60, &["192.168.1.1"]);
    assert_eq!(world.verdict("20.0.0.1"), "stale");
    assert_eq!(world.verdict("192.168.1.1"), "not-listed");
    let health = world.set.health(world.now);
    let family = &health[0].families[0];
    let kind = family.last_error.as_ref().unwrap().kind();
    assert_eq!(kind, ResolveErrorKind::OnlySpecialAddresses);
    assert_eq!(family.dropped, ["192.168.1.1".parse::<IpAddr>().unwrap()]);
}

#[test]
fn special_purpose_addresses_are_admitted_where_the_rules_allow_them() {
    let rules = Rules {
        insecure_allow_special_addresses: true,
        ..Rules::default()
    };
    let mut world = World::with(1, rules);
    world.answer(0, Family::V4, 60, &["127.0.1.1"]);
    assert_eq!(world.verdict("127.0.1.1"), "fresh");
}

#[test]
fn an_answer_with_too_many_addresses_is_a_failure_and_the_old_one_is_kept() {
    let mut world = World::new(1);
    world.answer(0, Family::V4, 60, &["20.0.0.1"]);
    let many = |count: u32| {
        let addresses = (0..count).map(|n| IpAddr::V4((0x1500_0000 + n).into()));
        Answer::new(addresses, 60 * SECOND)
    };
    world.at(60 * SECOND).apply(0, Family::V4, Ok(many(257)));
    assert_eq!(world.verdict("20.0.0.1"), "stale");
    assert_eq!(world.verdict("21.0.0.0"), "not-listed");
    world.apply(0, Family::V4, Ok(many(256)));
    assert_eq!(world.verdict("21.0.0.255"), "fresh");
}

#[test]
fn an_answer_about_a_host_that_is_not_in_the_set_changes_nothing() {
    let mut world = World::new(1);
    assert!(
        world
            .apply(7, Family::V4, Ok(answer(60, &["20.0.0.1"])))
            .is_empty()
    );
    assert_eq!(world.verdict("20.0.0.1"), "unresolved");
}
