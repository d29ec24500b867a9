use super::*;

const DENIALS: [ResolveErrorKind; 2] = [ResolveErrorKind::NxDomain, ResolveErrorKind::NoData];

#[test]
fn a_denial_is_believed_once_another_host_answers_and_its_addresses_only_linger() {
    for kind in DENIALS {
        let mut world = World::new(2);
        world.answer_each(60);
        world.at(60 * SECOND).fail(0, Family::V4, kind);
        assert_eq!(world.state(0, Family::V4), QuestionStatus::Failing);
        assert_eq!(world.verdict("20.0.0.1"), "stale");
        world
            .at(61 * SECOND)
            .answer(1, Family::V4, 60, &["20.0.1.1"]);
        assert_eq!(world.state(0, Family::V4), QuestionStatus::Denied);
        assert_eq!(world.verdict("20.0.0.1"), "lingering");
        world.at(61 * SECOND + HOUR - MS);
        assert_eq!(world.verdict("20.0.0.1"), "lingering");
        world.at(61 * SECOND + HOUR);
        assert_eq!(world.verdict("20.0.0.1"), "not-listed");
    }
}

#[test]
fn hosts_that_were_not_asked_again_yet_do_not_confirm_a_denial() {
    for kind in DENIALS {
        let mut world = World::new(4);
        for number in 0..4 {
            let ttl = 60 + 20 * number as u64;
            world.answer(number, Family::V4, ttl, &[&own_address(number)]);
        }
        // The zone breaks: each host is denied once a minute, starting at the end of its answer's TTL.
        for round in 0..120u32 {
            for number in 0..4u32 {
                let at = (60 + 20 * number + 60 * round) * SECOND;
                world.at(at).fail(number as usize, Family::V4, kind);
            }
        }
        for number in 0..4 {
            assert_eq!(
                world.verdict(&own_address(number)),
                "stale",
                "{kind:?} {number}"
            );
        }
    }
}

#[test]
fn an_answer_that_has_expired_or_was_restored_does_not_confirm_a_denial() {
    let denied = |world: &mut World| {
        world.fail(0, Family::V6, ResolveErrorKind::NxDomain);
        world.state(0, Family::V6)
    };
    let answered = || {
        let mut world = World::new(2);
        world.answer(1, Family::V4, 60, &["20.0.1.1"]);
        world
    };
    let last = 60 * SECOND - MS;
    assert_eq!(denied(answered().at(last)), QuestionStatus::Denied);
    let end = 60 * SECOND;
    assert_eq!(denied(answered().at(end)), QuestionStatus::Failing);
    let before = answered();
    let mut restarted = before.restarted(Rules::default(), [host(0), host(1)], before.now);
    assert_eq!(denied(&mut restarted), QuestionStatus::Failing);
}

#[test]
fn a_denial_of_everything_is_not_believed() {
    for kind in DENIALS {
        let mut world = World::new(2);
        world.answer_each(60);
        world.at(66 * SECOND);
        for number in 0..2 {
            world.fail(number, Family::V4, kind);
            world.fail(number, Family::V6, kind);
        }
        for number in 0..2 {
            assert_eq!(world.state(number, Family::V4), QuestionStatus::Failing);
            assert_eq!(world.verdict(&own_address(number)), "stale");
        }
        world.at(60 * SECOND + 24 * HOUR);
        assert_eq!(
            world.verdict("20.0.0.1"),
            "unresolved",
            "and the stale window ends"
        );
    }
}

#[test]
fn a_host_that_does_not_exist_affects_no_other_and_unlisted_peers_are_not_listed() {
    let mut world = World::new(3);
    world.answer(0, Family::V4, 60, &["20.0.0.1"]);
    world.answer(1, Family::V4, 60, &["20.0.1.1"]);
    world.fail(2, Family::V4, ResolveErrorKind::NxDomain);
    assert_eq!(world.verdict("20.0.0.1"), "fresh");
    assert_eq!(world.verdict("20.0.9.9"), "not-listed");
}

#[test]
fn a_denial_that_arrives_before_the_first_answer_is_believed_with_it() {
    let mut world = World::new(2);
    world.fail(0, Family::V6, ResolveErrorKind::NoData);
    world.fail(1, Family::V4, ResolveErrorKind::NxDomain);
    world.fail(1, Family::V6, ResolveErrorKind::NxDomain);
    assert_eq!(world.state(0, Family::V6), QuestionStatus::Failing);
    world.answer(0, Family::V4, 60, &["20.0.0.1"]);
    assert_eq!(world.state(0, Family::V6), QuestionStatus::Denied);
    assert_eq!(world.state(1, Family::V4), QuestionStatus::Denied);
    assert_eq!(world.verdict("20.0.9.9"), "not-listed");
    assert_eq!(world.verdict("2a01::1"), "not-listed");
    assert_eq!(world.due_in(0, Family::V6), 60 * SECOND);
}

#[test]
fn no_data_does_not_affect_the_other_family_of_a_single_host() {
    let mut world = World::new(1);
    world.answer(0, Family::V4, 60, &["20.0.0.1"]);
    world.fail(0, Family::V6, ResolveErrorKind::NoData);
    assert_eq!(world.verdict("2a01::1"), "not-listed");
    assert_eq!(world.verdict("20.0.0.1"), "fresh");
}

#[test]
fn no_data_for_a_question_with_an_answer_is_not_confirmed_by_the_same_host() {
    let mut world = World::new(1);
    world.answer(0, Family::V4, 60, &["20.0.0.1"]);
    world.answer(0, Family::V6, 60, &["2a01::1"]);
    world
        .at(60 * SECOND)
        .fail(0, Family::V6, ResolveErrorKind::NoData);
    assert_eq!(world.verdict("2a01::1"), "stale");
}

#[test]
fn nxdomain_applies_to_the_family_that_was_asked_for() {
    // Some load balancers answer AAAA questions with NXDOMAIN (RFC 4074 section 4.2).
    let mut world = World::new(2);
    world.answer_each(3600);
    world
        .at(10 * SECOND)
        .fail(0, Family::V6, ResolveErrorKind::NxDomain);
    world.answer(1, Family::V4, 3600, &["20.0.1.1"]);
    assert_eq!(world.verdict("20.0.0.1"), "fresh");
    assert_eq!(world.verdict("2a01::9"), "not-listed");
    let mut world = World::new(2);
    world.answer(1, Family::V4, 3600, &["20.0.1.1"]);
    world.fail(0, Family::V4, ResolveErrorKind::Timeout);
    world.fail(0, Family::V6, ResolveErrorKind::NxDomain);
    assert_eq!(
        world.verdict("20.0.9.9"),
        "unresolved",
        "the A records are unknown"
    );
}

#[test]
fn the_order_of_the_hosts_does_not_decide_which_denials_are_believed_late() {
    for (long, short) in [(0, 1), (1, 0)] {
        let mut world = World::with(
            2,
            Rules {
                stale_for: SECOND,
                ..Rules::default()
            },
        );
        world.answer(long, Family::V4, 60, &["20.0.0.1"]);
        world.answer(short, Family::V4, 10, &["20.0.1.1"]);
        world.at(5 * SECOND);
        world.fail(long, Family::V4, ResolveErrorKind::NxDomain);
        world.fail(short, Family::V4, ResolveErrorKind::NxDomain);
        assert_eq!(world.state(long, Family::V4), QuestionStatus::Failing);
        assert_eq!(world.state(short, Family::V4), QuestionStatus::Failing);

        // This answer confirms the denial of the host `long`, but not the denial of its own host `short`.
        world.at(20 * SECOND);
        world.answer(short, Family::V6, 60, &["2a01:111::1"]);
        assert_eq!(world.state(long, Family::V4), QuestionStatus::Denied);
        assert_eq!(world.state(short, Family::V4), QuestionStatus::Failing);
    }
}

#[test]
fn a_host_of_another_zone_does_not_confirm_a_denial() {
    let now = now();
    let hosts = ["a.vipps.test", "b.vipps.test", "out.adyen.test"];
    let hosts = hosts.map(|host| host.parse::<HostName>().unwrap());
    let set = AllowSet::new(Rules::default(), hosts.clone(), &[], now).unwrap();
    let mut world = World {
        set,
        start: now,
        now,
    };
    let ask = |world: &mut World, at: usize, outcome| {
        let question = Question {
            host: hosts[at].clone(),
            family: Family::V4,
        };
        let now = world.now;
        world.set.apply(&question, outcome, now);
    };
    for at in 0..3 {
        ask(&mut world, at, Ok(answer(60, &[&own_address(at)])));
    }
    let denied = || Err(ResolveError::new(ResolveErrorKind::NxDomain));
    for minute in 1..180 {
        world.at(minute * 60 * SECOND);
        ask(&mut world, 0, denied());
        ask(&mut world, 1, denied());
        ask(&mut world, 2, Ok(answer(60, &[&own_address(2)])));
    }
    assert_eq!(world.verdict("20.0.0.1"), "stale");
    assert_eq!(world.verdict("20.0.1.1"), "stale");
}

/// Creates a world of two hosts with these names, each with its own address and a TTL of 60 s.
fn two_hosts(names: [&str; 2]) -> World {
    let now = now();
    let hosts = names.map(|name| name.parse::<HostName>().unwrap());
    let set = AllowSet::new(Rules::default(), hosts, &[], now).unwrap();
    let mut world = World {
        set,
        start: now,
        now,
    };
    for at in 0..2 {
        ask(&mut world, at, Ok(answer(60, &[&own_address(at)])));
    }
    world
}

fn ask(world: &mut World, at: usize, outcome: Result<Answer, ResolveError>) {
    let question = Question {
        host: world.set.hosts[at].name.clone(),
        family: Family::V4,
    };
    let now = world.now;
    world.set.apply(&question, outcome, now);
}

#[test]
fn hosts_with_only_a_public_suffix_in_common_are_of_different_zones() {
    for (names, state) in [
        (["a.psp.example", "b.psp.example"], QuestionStatus::Denied),
        (
            ["a.eu.psp.example", "b.eu.psp.example"],
            QuestionStatus::Denied,
        ),
        (["a.psp.co.uk", "b.psp.co.uk"], QuestionStatus::Denied),
        (["a.co.example", "b.co.example"], QuestionStatus::Denied),
        (["psp.example", "other.example"], QuestionStatus::Failing),
        (["psp.co.uk", "other.co.uk"], QuestionStatus::Failing),
        (["psp.com.au", "other.com.au"], QuestionStatus::Failing),
        (["psp.or.jp", "other.or.jp"], QuestionStatus::Failing),
        (["psp.com.br", "other.com.br"], QuestionStatus::Failing),
        (
            ["a.psp.example", "a.other.example"],
            QuestionStatus::Failing,
        ),
        (
            ["a.eu.psp.example", "a.us.psp.example"],
            QuestionStatus::Failing,
        ),
    ] {
        let mut world = two_hosts(names);
        world.at(60 * SECOND);
        ask(&mut world, 1, Ok(answer(60, &["20.0.1.1"])));
        let denied = Err(ResolveError::new(ResolveErrorKind::NxDomain));
        ask(&mut world, 0, denied);
        assert_eq!(world.state(0, Family::V4), state, "{names:?}");
    }
}

#[test]
fn another_zone_does_not_confirm_a_denial_even_when_the_stale_window_is_over() {
    for kind in DENIALS {
        let mut world = two_hosts(["a.psp.example", "a.other.example"]);
        for hour in 1..=24 {
            world.at(60 * SECOND + hour * HOUR);
            ask(&mut world, 0, Err(ResolveError::new(kind)));
            ask(&mut world, 1, Ok(answer(3600, &["20.0.1.1"])));
        }
        assert_eq!(
            world.state(0, Family::V4),
            QuestionStatus::Failing,
            "{kind:?}"
        );
        assert_eq!(world.verdict("20.0.0.1"), "unresolved", "{kind:?}");
    }
}

#[test]
fn another_zone_does_not_confirm_a_denial_after_a_restart_either() {
    let mut world = two_hosts(["a.psp.example", "a.other.example"]);
    let failed = || Err(ResolveError::new(ResolveErrorKind::ServFail));
    for hour in 1..=24 {
        world.at(60 * SECOND + hour * HOUR);
        ask(&mut world, 0, failed());
        ask(&mut world, 1, Ok(answer(3600, &["20.0.1.1"])));
    }
    assert_eq!(world.verdict("20.0.0.1"), "unresolved");
    let hosts: Vec<_> = world.set.hosts().cloned().collect();
    world = world.restarted(Rules::default(), hosts, world.now);
    ask(&mut world, 1, Ok(answer(3600, &["20.0.1.1"])));
    for kind in DENIALS {
        ask(&mut world, 0, Err(ResolveError::new(kind)));
        assert_eq!(
            world.state(0, Family::V4),
            QuestionStatus::Failing,
            "{kind:?}"
        );
        assert_eq!(world.verdict("20.0.0.1"), "unresolved", "{kind:?}");
    }
}

#[test]
fn a_denial_is_asked_again_after_its_own_ttl_clamped() {
    for (ttl, due_in) in [(None, 60), (Some(0), 5), (Some(30), 30), (Some(9999), 3600)] {
        let mut world = World::new(2);
        world.answer_each(60);
        let error = ResolveError::new(ResolveErrorKind::NoData);
        let error = match ttl {
            Some(ttl) => error.with_negative_ttl(ttl * SECOND),
            None => error,
        };
        world.apply(0, Family::V6, Err(error));
        assert_eq!(world.due_in(0, Family::V6), due_in * SECOND, "{ttl:?}");
    }
}

#[test]
fn an_answer_without_an_address_is_a_denial() {
    let mut world = World::new(2);
    world.answer_each(60);
    world.answer(0, Family::V4, 30, &[]);
    assert_eq!(world.state(0, Family::V4), QuestionStatus::Denied);
    assert_eq!(world.due_in(0, Family::V4), 30 * SECOND);
}
