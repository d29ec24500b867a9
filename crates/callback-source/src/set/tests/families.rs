use super::*;

fn only(family: Family) -> Rules {
    Rules {
        only_family: Some(family),
        ..Rules::default()
    }
}

#[test]
fn the_other_family_has_no_questions_and_no_addresses() {
    for (asked, other, own, unlisted) in [
        (Family::V4, Family::V6, "20.0.0.1", "20.0.9.9"),
        (Family::V6, Family::V4, "2a01::1", "2a01::9"),
    ] {
        let foreign = if asked == Family::V4 {
            "2a01::1"
        } else {
            "20.0.0.1"
        };
        let mut world = World::with(2, only(asked));
        assert!(world.set.questions().all(|(of, _)| of.family == asked));
        assert_eq!(world.set.questions().count(), 2);
        assert_eq!(world.verdict(unlisted), "unresolved");
        assert_eq!(world.verdict(foreign), "not-listed");
        let notices = world.apply(0, other, Ok(answer(60, &[foreign])));
        assert!(notices.is_empty());
        world.fail(1, other, ResolveErrorKind::ServFail);
        assert_eq!(world.verdict(foreign), "not-listed");
        assert!(!world.set.is_attempted());

        world.answer(0, asked, 60, &[own]);
        world.fail(1, asked, ResolveErrorKind::NxDomain);
        assert!(world.set.is_attempted() && world.set.is_ready(world.now));
        assert_eq!(world.verdict(own), "fresh");
        assert_eq!(world.verdict(unlisted), "not-listed");
        let health = world.set.health(world.now);
        for host in &health {
            let family = &host.families[other as usize];
            assert_eq!(family.state, QuestionStatus::NotAsked);
            assert!(family.last_error.is_none() && family.failing_since.is_none());
        }
    }
}

#[test]
fn a_static_network_of_the_other_family_is_admitted_and_an_empty_list_is_unresolved() {
    let now = now();
    let networks = ["2a01:111::/32".parse().unwrap()];
    let set = AllowSet::new(only(Family::V4), [host(0)], &networks, now).unwrap();
    assert!(
        set.verdict("2a01:111::1".parse().unwrap(), now)
            .is_allowed()
    );
    let set = AllowSet::new(only(Family::V4), [], &[], now).unwrap();
    let verdict = set.verdict("2a01::1".parse().unwrap(), now);
    let kind = verdict.rejection().unwrap().kind();
    assert_eq!(kind, RejectionKind::Unresolved);
}

#[test]
fn nothing_of_the_other_family_is_restored() {
    let mut world = World::new(1);
    world.answer(0, Family::V4, 60, &["20.0.0.1"]);
    world.answer(0, Family::V6, 60, &["2a01::1"]);
    world
        .at(60 * SECOND)
        .answer(0, Family::V6, 60, &["2a01::2"]);
    let mut set = AllowSet::new(only(Family::V4), [host(0)], &[], world.now).unwrap();
    set.restore(world.set.save(), world.now);
    world.set = set;
    assert_eq!(world.verdict("20.0.0.1"), "restored");
    assert_eq!(world.verdict("2a01::1"), "not-listed");
    assert_eq!(world.verdict("2a01::2"), "not-listed");
}

#[test]
fn a_failing_family_neither_drops_nor_refreshes_the_other() {
    for (good, bad, good_address, bad_address) in [
        (Family::V4, Family::V6, "20.0.0.1", "2a01::1"),
        (Family::V6, Family::V4, "2a01::1", "20.0.0.1"),
    ] {
        let mut world = World::new(1);
        world.answer(0, Family::V4, 60, &["20.0.0.1"]);
        world.answer(0, Family::V6, 60, &["2a01::1"]);
        world
            .at(60 * SECOND)
            .fail(0, bad, ResolveErrorKind::ServFail);
        world.answer(0, good, 60, &[good_address]);
        assert_eq!(world.verdict(good_address), "fresh");
        assert_eq!(world.verdict(bad_address), "stale");
        world.at(60 * SECOND + 24 * HOUR);
        assert_eq!(world.verdict(bad_address), "unresolved");
    }
}

#[test]
fn unresolved_depends_on_the_family_of_the_peer() {
    let mut world = World::new(1);
    world.answer(0, Family::V4, 60, &["20.0.0.1"]);
    world.fail(0, Family::V6, ResolveErrorKind::ServFail);
    assert_eq!(world.verdict("20.0.9.9"), "not-listed");
    assert_eq!(world.verdict("2a01::9"), "unresolved");
}
