use super::*;

/// Applies an answer of host 0 and a failure of host 1 every hour, from hour `from` to hour `to`.
fn go_on(world: &mut World, from: u32, to: u32) {
    for hour in from..=to {
        world.at(hour * HOUR);
        world.answer(0, Family::V4, 3600, &["20.0.0.1"]);
        world.fail(1, Family::V4, ResolveErrorKind::ServFail);
    }
}

#[test]
fn a_host_that_never_answers_makes_unlisted_peers_unresolved_for_the_stale_window_only() {
    let mut world = World::new(2);
    go_on(&mut world, 0, 23);
    world.at(24 * HOUR - MS);
    assert_eq!(world.verdict("20.0.9.9"), "unresolved");
    world.at(24 * HOUR);
    assert_eq!(world.verdict("20.0.9.9"), "not-listed");
    assert_eq!(world.state(1, Family::V4), QuestionStatus::GivenUp);
    assert_eq!(world.verdict("20.0.0.1"), "fresh");
}

#[test]
fn a_host_that_stopped_answering_keeps_its_addresses_for_the_window_and_is_then_given_up() {
    let mut world = World::new(2);
    world.answer(1, Family::V4, 60, &["20.0.1.1"]);
    go_on(&mut world, 1, 24);
    for (at, own, unlisted) in [
        (60 * SECOND + 24 * HOUR - MS, "stale", "not-listed"),
        (60 * SECOND + 24 * HOUR, "unresolved", "unresolved"),
        (25 * HOUR - MS, "unresolved", "unresolved"),
        (25 * HOUR, "not-listed", "not-listed"),
    ] {
        world.at(at);
        let verdicts = (world.verdict("20.0.1.1"), world.verdict("20.0.9.9"));
        assert_eq!(verdicts, (own, unlisted), "{at:?}");
    }
}

#[test]
fn a_host_that_is_given_up_is_still_asked_and_can_come_back() {
    let mut world = World::new(2);
    go_on(&mut world, 0, 30);
    assert_eq!(world.due_in(1, Family::V4), 60 * SECOND);
    world.answer(1, Family::V4, 60, &["20.0.1.1"]);
    assert_eq!(world.verdict("20.0.1.1"), "fresh");
    assert_eq!(world.state(1, Family::V4), QuestionStatus::Answered);
}

#[test]
fn a_gap_between_lookups_starts_the_window_for_giving_up_anew() {
    for (gap, is_gap) in [(HOUR, false), (HOUR + MS, true), (20 * HOUR, true)] {
        let mut world = World::new(2);
        world.answer_each(60);
        let fail = |world: &mut World, at| {
            world.at(at).answer(0, Family::V4, 3600, &["20.0.0.1"]);
            world.fail(1, Family::V4, ResolveErrorKind::ServFail);
        };
        for hour in 1..=20 {
            fail(&mut world, hour * HOUR);
        }
        for hour in 0..=10 {
            fail(&mut world, 20 * HOUR + gap + hour * HOUR);
        }
        let expected = if is_gap { "unresolved" } else { "not-listed" };
        assert_eq!(world.verdict("20.0.9.9"), expected, "{gap:?}");
        let health = world.set.health(world.now);
        let since = health[1].families[0].failing_since.unwrap();
        assert_eq!(since, world.start + HOUR, "the first failure of all");
        for hour in 11..=24 {
            fail(&mut world, 20 * HOUR + gap + hour * HOUR);
        }
        assert_eq!(world.verdict("20.0.9.9"), "not-listed", "{gap:?}");
    }
}

#[test]
fn time_alone_gives_up_only_a_question_that_was_asked_recently() {
    for (last, expected) in [(23 * HOUR, "not-listed"), (23 * HOUR - MS, "unresolved")] {
        let mut world = World::new(2);
        for hour in 0..=23 {
            world.at(last.saturating_sub((23 - hour) * HOUR));
            world.fail(1, Family::V4, ResolveErrorKind::ServFail);
        }
        world
            .at(23 * HOUR)
            .answer(0, Family::V4, 3600, &["20.0.0.1"]);
        world.at(24 * HOUR + SECOND);
        assert_eq!(world.verdict("20.0.9.9"), expected, "{last:?}");
    }
}

#[test]
fn a_short_stale_window_is_not_used_up_by_a_gap() {
    let rules = Rules {
        stale_for: 60 * SECOND,
        max_backoff: SECOND,
        ..Rules::default()
    };
    let mut world = World::with(2, rules);
    world.fail(1, Family::V4, ResolveErrorKind::ServFail);
    world.at(61 * SECOND);
    world.answer(0, Family::V4, 3600, &["20.0.0.1"]);
    assert_eq!(world.verdict("20.0.9.9"), "unresolved", "asked once");
    world.fail(1, Family::V4, ResolveErrorKind::ServFail);
    assert_eq!(world.verdict("20.0.9.9"), "unresolved", "a gap");
    for second in [70, 80, 90, 100, 110, 121] {
        world.at(second * SECOND);
        world.fail(1, Family::V4, ResolveErrorKind::ServFail);
    }
    assert_eq!(world.verdict("20.0.9.9"), "not-listed");
}

#[test]
fn an_answer_from_before_an_outage_does_not_give_a_host_up() {
    let mut world = World::new(2);
    world.answer_each(60);
    world
        .at(61 * SECOND)
        .fail(0, Family::V4, ResolveErrorKind::Timeout);
    world
        .at(61 * SECOND + MS)
        .answer(1, Family::V4, 3600, &["20.0.1.1"]);
    for minute in 61..=1600 {
        world.at(minute * 60 * SECOND);
        for number in 0..2 {
            world.fail(number, Family::V4, ResolveErrorKind::Timeout);
        }
        let at = world.now - world.start;
        if at >= 24 * HOUR + 60 * SECOND {
            assert_eq!(world.verdict("20.0.0.1"), "unresolved", "{at:?}");
            assert_eq!(world.verdict("20.0.9.9"), "unresolved", "{at:?}");
        }
    }
}

#[test]
fn a_current_answer_does_not_give_a_host_up_while_its_own_question_fails() {
    let mut world = World::new(2);
    for hour in 0..=23 {
        world.at(hour * HOUR);
        world.fail(0, Family::V4, ResolveErrorKind::Timeout);
    }
    world
        .at(23 * HOUR + HOUR / 2)
        .answer(1, Family::V4, 3600, &["20.0.1.1"]);
    world.at(24 * HOUR);
    assert_eq!(world.verdict("20.0.9.9"), "not-listed");
    world.fail(1, Family::V4, ResolveErrorKind::Timeout);
    assert_eq!(world.verdict("20.0.9.9"), "unresolved");
    assert_eq!(world.state(0, Family::V4), QuestionStatus::Failing);
}

#[test]
fn an_answer_after_the_end_of_a_window_gives_a_host_up_until_it_is_stale_itself() {
    let mut world = World::new(2);
    let fail = |world: &mut World, number| {
        world.fail(number, Family::V4, ResolveErrorKind::Timeout);
    };
    for hour in 0..=25 {
        world.at(hour * HOUR);
        fail(&mut world, 0);
    }
    assert_eq!(world.verdict("20.0.9.9"), "unresolved");
    world.answer(1, Family::V4, 60, &["20.0.1.1"]);
    assert_eq!(world.verdict("20.0.9.9"), "not-listed");
    for hour in 26..=50 {
        world.at(hour * HOUR);
        fail(&mut world, 0);
        fail(&mut world, 1);
        let expected = match hour {
            ..50 => "not-listed",
            _ => "unresolved",
        };
        let shown = world.verdict("20.0.9.9");
        assert_eq!(shown, expected, "{hour}");
    }
}

#[test]
fn verdicts_follow_the_gap_between_a_window_and_giving_up_without_a_change() {
    let rules = Rules {
        stale_for: 10 * SECOND,
        ..Rules::default()
    };
    let mut world = World::with(2, rules);
    world.answer(0, Family::V4, 60, &["20.0.0.1"]);
    world.answer(1, Family::V4, 3600, &["20.0.1.1"]);
    world
        .at(63 * SECOND)
        .fail(0, Family::V4, ResolveErrorKind::Timeout);
    for (at, expected) in [
        (70 * SECOND - MS, "not-listed"),
        (70 * SECOND, "unresolved"),
        (73 * SECOND - MS, "unresolved"),
        (73 * SECOND, "not-listed"),
        (3600 * SECOND, "not-listed"),
        (3606 * SECOND + 500 * MS, "unresolved"),
    ] {
        world.at(at);
        assert_eq!(world.verdict("20.0.9.9"), expected, "{at:?}");
        let given_up = at >= 73 * SECOND && expected == "not-listed";
        let state = world.state(0, Family::V4);
        assert_eq!(state == QuestionStatus::GivenUp, given_up, "{at:?}");
    }
}

#[test]
fn a_zone_without_any_answer_is_not_given_up_because_another_zone_answers() {
    let silent = |names: &[&str]| {
        let now = now();
        let hosts = names.iter().map(|name| name.parse().unwrap());
        let set = AllowSet::new(Rules::default(), hosts, &[], now).unwrap();
        let mut world = World {
            set,
            start: now,
            now,
        };
        for hour in 0..=25 {
            world.at(hour * HOUR);
            for (at, name) in names.iter().enumerate() {
                let question = Question {
                    host: name.parse().unwrap(),
                    family: Family::V4,
                };
                let outcome = match at {
                    0 => Ok(answer(3600, &["20.0.0.1"])),
                    _ => Err(ResolveError::new(ResolveErrorKind::ServFail)),
                };
                let now = world.now;
                world.set.apply(&question, outcome, now);
            }
        }
        world.verdict("20.0.9.9")
    };
    let other = "a.other.example";
    assert_eq!(
        silent(&[other, "a.psp.example", "b.psp.example"]),
        "unresolved"
    );
    assert_eq!(silent(&["c.psp.example", "a.psp.example"]), "not-listed");
    assert_eq!(silent(&[other, "a.psp.example"]), "not-listed", "alone");
    assert_eq!(
        silent(&["other.test", "one.test", "two.test"]),
        "not-listed"
    );
}

#[test]
fn no_host_is_given_up_while_none_answers() {
    let mut world = World::new(2);
    world.answer_each(60);
    world.at(60 * SECOND);
    for number in 0..2 {
        world.fail(number, Family::V4, ResolveErrorKind::Timeout);
    }
    for hours in [1, 24, 25, 1000] {
        world.at(60 * SECOND + hours * HOUR);
        let expected = if hours == 1 {
            "not-listed"
        } else {
            "unresolved"
        };
        assert_eq!(world.verdict("20.0.9.9"), expected, "{hours}");
    }
}
