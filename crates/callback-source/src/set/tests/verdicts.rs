use super::*;

#[test]
fn unlisted_peers_are_unresolved_until_every_host_has_been_resolved() {
    let mut world = World::new(2);
    assert_eq!(world.verdict("20.0.9.9"), "unresolved");
    world.answer(0, Family::V4, 60, &["20.0.0.1"]);
    assert_eq!(world.verdict("20.0.0.1"), "fresh");
    assert_eq!(world.verdict("20.0.9.9"), "unresolved");
    world.answer(1, Family::V4, 60, &["20.0.1.1"]);
    assert_eq!(world.verdict("20.0.9.9"), "not-listed");
    assert_eq!(
        world.verdict("2a01::1"),
        "unresolved",
        "AAAA has not been resolved"
    );
}

#[test]
fn an_address_is_admitted_until_the_end_of_its_window_and_not_at_it() {
    let mut world = World::new(2);
    world.answer(0, Family::V4, 60, &["20.0.0.1", "20.0.0.2"]);
    world.answer(1, Family::V4, 300, &["20.0.0.2"]);
    world
        .at(61 * SECOND)
        .answer(0, Family::V4, 60, &["20.0.0.3"]);
    let windows = world.set.windows(world.now);
    let addresses: BTreeSet<_> = windows.keys().copied().collect();
    assert_eq!(addresses, world.set.addresses(world.now));
    assert_eq!(addresses.len(), 3);
    for (address, until) in windows {
        assert!(
            world.set.verdict(address, until - MS).is_allowed(),
            "{address}"
        );
        assert!(!world.set.verdict(address, until).is_allowed(), "{address}");
    }
}

#[test]
fn a_set_is_resolved_for_a_family_when_its_unlisted_peers_are_not_listed() {
    let mut world = World::new(2);
    for (number, family) in [
        (0, Family::V4),
        (1, Family::V4),
        (0, Family::V6),
        (1, Family::V6),
    ] {
        for (family, peer) in [(Family::V4, "20.0.9.9"), (Family::V6, "2a01::9")] {
            let is_resolved = world.set.is_resolved(family, world.now);
            assert_eq!(is_resolved, world.verdict(peer) == "not-listed", "{peer}");
        }
        world.answer(number, family, 60, &["20.0.0.1", "2a01::1"]);
    }
    assert!(
        Family::ALL
            .iter()
            .all(|family| world.set.is_resolved(*family, world.now))
    );
}

#[test]
fn a_mapped_peer_is_the_ipv4_peer_and_other_embeddings_are_not() {
    let mut world = World::new(1);
    world.answer(0, Family::V4, 60, &["104.40.1.2"]);
    world.answer(0, Family::V6, 60, &["2a01::1"]);
    assert_eq!(world.verdict("::ffff:104.40.1.2"), "fresh");
    for peer in ["::104.40.1.2", "64:ff9b::104.40.1.2", "2002:6828:102::1"] {
        assert_eq!(world.verdict(peer), "not-listed", "{peer}");
    }
}

#[test]
fn a_static_network_is_admitted_whatever_the_answers() {
    let now = now();
    let networks = [
        "212.93.32.0/19".parse().unwrap(),
        "10.1.0.0/16".parse().unwrap(),
    ];
    let set = AllowSet::new(Rules::default(), [host(0)], &networks, now).unwrap();
    let far = now + HOUR * 1000;
    let allowed = set.verdict("212.93.40.1".parse().unwrap(), far);
    let allowed = allowed.allowed().unwrap();
    assert_eq!(allowed.freshness(), Freshness::Static);
    assert_eq!(allowed.network(), Some("212.93.32.0/19".parse().unwrap()));
    assert_eq!(allowed.host(), None);
    assert!(set.verdict("10.1.2.3".parse().unwrap(), far).is_allowed());
    assert!(!set.verdict("10.2.2.3".parse().unwrap(), far).is_allowed());
    let sorted: Vec<_> = set.networks().collect();
    assert_eq!(sorted, [networks[1], networks[0]]);
}

#[test]
fn networks_alone_decide_at_once_and_an_empty_list_is_always_unresolved() {
    let now = now();
    let peer = "20.0.0.1".parse().unwrap();
    let kind = |set: &AllowSet| set.verdict(peer, now).rejection().unwrap().kind();
    let networks = ["212.93.32.0/19".parse().unwrap()];
    let set = AllowSet::new(Rules::default(), [], &networks, now).unwrap();
    assert_eq!(kind(&set), RejectionKind::NotListed);
    assert!(set.is_ready(now));
    let set = AllowSet::new(Rules::default(), [], &[], now).unwrap();
    assert_eq!(kind(&set), RejectionKind::Unresolved);
    assert!(!set.is_ready(now));
}

#[test]
fn an_address_of_several_hosts_is_fresh_while_one_of_them_has_it() {
    let mut world = World::new(2);
    world.answer(0, Family::V4, 60, &["20.0.0.1"]);
    world.answer(1, Family::V4, 60, &["20.0.0.1"]);
    world
        .at(60 * SECOND)
        .answer(0, Family::V4, 60, &["20.0.0.2"]);
    assert_eq!(world.verdict("20.0.0.1"), "fresh");
    world.answer(1, Family::V4, 60, &["20.0.0.3"]);
    assert_eq!(world.verdict("20.0.0.1"), "lingering");
}

#[test]
fn allowed_names_the_host_and_the_time_of_its_answer() {
    let mut world = World::new(2);
    world.answer_each(60);
    world
        .at(60 * SECOND)
        .answer(1, Family::V4, 60, &["20.0.1.2"]);
    let verdict = world.set.verdict("20.0.1.1".parse().unwrap(), world.now);
    let allowed = verdict.allowed().unwrap();
    assert_eq!(allowed.host(), Some(&host(1)));
    assert_eq!(
        allowed.since(),
        world.now,
        "the time at which it left the answer"
    );
    let verdict = world.set.verdict("20.0.0.1".parse().unwrap(), world.now);
    assert_eq!(verdict.allowed().unwrap().since(), world.start);
}
