use super::*;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const MS: Duration = Duration::from_millis(1);

/// A set of hosts `h0.psp.test`, `h1.psp.test` …, a clock that starts at zero, and short ways to feed it.
struct World {
    set: AllowSet,
    start: Instant,
    now: Instant,
}

impl World {
    fn new(hosts: usize) -> Self {
        Self::with(hosts, Rules::default())
    }

    fn with(hosts: usize, rules: Rules) -> Self {
        let now = now();
        let set = AllowSet::new(rules, (0..hosts).map(host), &[], now).unwrap();
        Self {
            set,
            start: now,
            now,
        }
    }

    fn at(&mut self, since_start: Duration) -> &mut Self {
        self.now = self.start + since_start;
        self
    }

    fn apply(
        &mut self,
        number: usize,
        family: Family,
        outcome: Result<Answer, ResolveError>,
    ) -> Vec<Notice> {
        let question = Question {
            host: host(number),
            family,
        };
        self.set.apply(&question, outcome, self.now)
    }

    fn answer(&mut self, number: usize, family: Family, ttl: u64, addresses: &[&str]) {
        self.apply(number, family, Ok(answer(ttl, addresses)));
    }

    fn fail(&mut self, number: usize, family: Family, kind: ResolveErrorKind) {
        self.apply(number, family, Err(ResolveError::new(kind)));
    }

    /// Both questions of each host: an A record of its own, no AAAA record.
    fn sunny(&mut self, ttl: u64) {
        for number in 0..self.set.hosts.len() {
            self.answer(number, Family::V4, ttl, &[&own_address(number)]);
        }
        for number in 0..self.set.hosts.len() {
            self.fail(number, Family::V6, ResolveErrorKind::NoData);
        }
    }

    fn says(&self, peer: &str) -> &'static str {
        match self.set.verdict(peer.parse().unwrap(), self.now) {
            Verdict::Allow(allowed) => allowed.freshness().as_str(),
            Verdict::Reject(rejection) => rejection.kind().as_str(),
        }
    }

    fn due_in(&self, number: usize, family: Family) -> Duration {
        let question = Question {
            host: host(number),
            family,
        };
        let (_, due_at) = self
            .set
            .questions()
            .find(|(due, _)| *due == question)
            .unwrap();
        due_at - self.now
    }

    fn state(&self, number: usize, family: Family) -> QuestionStatus {
        self.set.health(self.now)[number].families[family as usize].state
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn host(number: usize) -> HostName {
    format!("h{number}.psp.test").parse().unwrap()
}

fn own_address(number: usize) -> String {
    format!("20.0.{number}.1")
}

fn answer(ttl: u64, addresses: &[&str]) -> Answer {
    Answer::new(
        addresses.iter().map(|text| text.parse().unwrap()),
        Duration::from_secs(ttl),
    )
}

fn changes(notices: &[Notice]) -> Vec<(String, usize, usize)> {
    let change = |notice: &Notice| match notice {
        Notice::Changed(change) => Some((
            change.host.to_string(),
            change.added.len(),
            change.removed.len(),
        )),
        _ => None,
    };
    notices.iter().filter_map(change).collect()
}

const FAILURES: [ResolveErrorKind; 9] = [
    ResolveErrorKind::ServFail,
    ResolveErrorKind::Refused,
    ResolveErrorKind::ErrorCode,
    ResolveErrorKind::Timeout,
    ResolveErrorKind::Network,
    ResolveErrorKind::Malformed,
    ResolveErrorKind::Truncated,
    ResolveErrorKind::Bogus,
    ResolveErrorKind::BrokenChain,
];

mod verdicts {
    use super::*;

    #[test]
    fn nothing_is_decided_before_every_host_was_heard_of() {
        let mut world = World::new(2);
        assert_eq!(world.says("20.0.9.9"), "unresolved");
        world.answer(0, Family::V4, 60, &["20.0.0.1"]);
        assert_eq!(world.says("20.0.0.1"), "fresh");
        assert_eq!(world.says("20.0.9.9"), "unresolved");
        world.answer(1, Family::V4, 60, &["20.0.1.1"]);
        assert_eq!(world.says("20.0.9.9"), "not-listed");
        assert_eq!(world.says("2a01::1"), "unresolved", "AAAA was not heard of");
    }

    #[test]
    fn a_mapped_peer_is_the_ipv4_peer_and_other_embeddings_are_not() {
        let mut world = World::new(1);
        world.answer(0, Family::V4, 60, &["104.40.1.2"]);
        world.answer(0, Family::V6, 60, &["2a01::1"]);
        assert_eq!(world.says("::ffff:104.40.1.2"), "fresh");
        for peer in ["::104.40.1.2", "64:ff9b::104.40.1.2", "2002:6828:102::1"] {
            assert_eq!(world.says(peer), "not-listed", "{peer}");
        }
    }

    #[test]
    fn a_static_network_is_admitted_whatever_dns_says() {
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
    fn networks_alone_decide_at_once_and_an_empty_list_never_says_no_for_sure() {
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
    fn an_address_of_several_hosts_is_admitted_while_one_of_them_has_it() {
        let mut world = World::new(2);
        world.answer(0, Family::V4, 60, &["20.0.0.1"]);
        world.answer(1, Family::V4, 60, &["20.0.0.1"]);
        world
            .at(60 * SECOND)
            .answer(0, Family::V4, 60, &["20.0.0.2"]);
        assert_eq!(world.says("20.0.0.1"), "fresh");
        world.answer(1, Family::V4, 60, &["20.0.0.3"]);
        assert_eq!(world.says("20.0.0.1"), "lingering");
    }

    #[test]
    fn allowed_tells_the_host_and_since_when() {
        let mut world = World::new(2);
        world.sunny(60);
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
}

mod ttl {
    use super::*;

    #[test]
    fn a_ttl_is_clamped_at_both_ends() {
        for (ttl, due_in) in [(0, 5), (1, 5), (5, 5), (6, 6), (3600, 3600), (3601, 3600)] {
            let mut world = World::new(1);
            world.answer(0, Family::V4, ttl, &["20.0.0.1"]);
            assert_eq!(world.due_in(0, Family::V4), due_in * SECOND, "{ttl}");
        }
        let mut world = World::new(1);
        let forever = Answer::new(["20.0.0.1".parse().unwrap()], Duration::MAX);
        world.apply(0, Family::V4, Ok(forever));
        assert_eq!(world.due_in(0, Family::V4), HOUR);
    }

    #[test]
    fn an_expired_answer_counts_as_fresh_while_it_is_refreshed_and_then_as_stale() {
        let mut world = World::new(1);
        let refresh_time = world.set.rules.refresh_time();
        world.answer(0, Family::V4, 60, &["20.0.0.1"]);
        for (at, says) in [
            (60 * SECOND - MS, "fresh"),
            (60 * SECOND, "fresh"),
            (60 * SECOND + refresh_time - MS, "fresh"),
            (60 * SECOND + refresh_time, "stale"),
        ] {
            world.at(at);
            assert_eq!(world.says("20.0.0.1"), says, "{at:?}");
        }
    }

    #[test]
    fn no_gap_opens_at_the_end_of_the_ttl_even_without_a_stale_window() {
        let rules = Rules {
            stale_for: Duration::ZERO,
            linger: Duration::ZERO,
            ..Rules::default()
        };
        let mut world = World::with(1, rules);
        world.answer(0, Family::V4, 60, &["20.0.0.1"]);
        world.at(60 * SECOND + 500 * MS);
        assert_eq!(world.says("20.0.0.1"), "fresh");
        world.fail(0, Family::V4, ResolveErrorKind::Timeout);
        assert_eq!(world.says("20.0.0.1"), "unresolved");
    }
}

mod time_limit {
    use super::*;

    #[test]
    fn an_expired_answer_stays_in_use_for_as_long_as_its_refresh_can_take() {
        for limit in [1, 5, 20, 120].map(|seconds| seconds * SECOND) {
            let rules = Rules {
                stale_for: Duration::ZERO,
                question_time_limit: limit,
                ..Rules::default()
            };
            let mut world = World::with(1, rules);
            world.answer(0, Family::V4, 60, &["20.0.0.1"]);
            world.fail(0, Family::V6, ResolveErrorKind::NoData);
            let until = 60 * SECOND + 1500 * MS + limit;
            world.at(until - MS);
            assert_eq!(world.says("20.0.0.1"), "fresh", "{limit:?}");
            assert_eq!(world.says("2a01::1"), "not-listed", "{limit:?}");
            world.at(until);
            assert_eq!(world.says("20.0.0.1"), "unresolved", "{limit:?}");
            assert_eq!(world.says("2a01::1"), "unresolved", "{limit:?}");
        }
    }

    #[test]
    fn an_endless_limit_is_no_panic() {
        let rules = Rules {
            question_time_limit: Duration::MAX,
            ..Rules::default()
        };
        let mut world = World::with(1, rules);
        world.answer(0, Family::V4, 60, &["20.0.0.1", "20.0.0.2"]);
        world.answer(0, Family::V4, 60, &["20.0.0.1"]);
        world.fail(0, Family::V4, ResolveErrorKind::Timeout);
        assert_eq!(world.says("20.0.0.2"), "lingering");
    }
}

mod one_family {
    use super::*;

    fn only(family: Family) -> Rules {
        Rules {
            only_family: Some(family),
            ..Rules::default()
        }
    }

    #[test]
    fn the_other_family_is_not_asked_and_holds_nothing() {
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
            assert_eq!(world.says(unlisted), "unresolved");
            assert_eq!(world.says(foreign), "not-listed");
            let notices = world.apply(0, other, Ok(answer(60, &[foreign])));
            assert!(notices.is_empty());
            world.fail(1, other, ResolveErrorKind::ServFail);
            assert_eq!(world.says(foreign), "not-listed");
            assert!(!world.set.is_attempted());

            world.answer(0, asked, 60, &[own]);
            world.fail(1, asked, ResolveErrorKind::NxDomain);
            assert!(world.set.is_attempted() && world.set.is_ready(world.now));
            assert_eq!(world.says(own), "fresh");
            assert_eq!(world.says(unlisted), "not-listed");
            let health = world.set.health(world.now);
            for host in &health {
                let family = &host.families[other as usize];
                assert_eq!(family.state, QuestionStatus::NotAsked);
                assert!(family.last_error.is_none() && family.failing_since.is_none());
            }
        }
    }

    #[test]
    fn a_static_network_of_the_other_family_is_admitted_and_an_empty_list_decides_nothing() {
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
        assert_eq!(world.says("20.0.0.1"), "restored");
        assert_eq!(world.says("2a01::1"), "not-listed");
        assert_eq!(world.says("2a01::2"), "not-listed");
    }
}

mod linger {
    use super::*;

    #[test]
    fn an_address_that_left_the_answer_lingers_for_its_window_and_not_longer() {
        let mut world = World::new(1);
        world.answer(0, Family::V4, 60, &["20.0.0.1"]);
        world
            .at(60 * SECOND)
            .answer(0, Family::V4, 600, &["20.0.0.2"]);
        assert_eq!(world.says("20.0.0.1"), "lingering");
        // Later answers that omit it too do not prolong it.
        world
            .at(1000 * SECOND)
            .answer(0, Family::V4, 3600, &["20.0.0.2"]);
        world.at(60 * SECOND + HOUR - MS);
        assert_eq!(world.says("20.0.0.1"), "lingering");
        world.at(60 * SECOND + HOUR);
        assert_eq!(world.says("20.0.0.1"), "not-listed");
    }

    #[test]
    fn an_address_that_comes_back_is_fresh_again_and_nothing_is_reported() {
        let mut world = World::new(1);
        world.answer(0, Family::V4, 60, &["20.0.0.1"]);
        world
            .at(60 * SECOND)
            .answer(0, Family::V4, 60, &["20.0.0.2"]);
        let outcome = Ok(answer(60, &["20.0.0.1", "20.0.0.2"]));
        let notices = world.at(120 * SECOND).apply(0, Family::V4, outcome);
        assert_eq!(changes(&notices), []);
        assert_eq!(world.says("20.0.0.1"), "fresh");
        world.at(60 * SECOND + HOUR);
        assert_eq!(
            world.says("20.0.0.1"),
            "stale",
            "the old window must not cut the answer short"
        );
    }

    /// The time limit of a question, the second before it and the jitter.
    const REFRESH_TIME: Duration = Duration::from_millis(6_500);

    #[test]
    fn one_answer_that_omits_an_address_takes_it_away_at_no_ttl() {
        let windows = [0, 1, 5, 60, 600, 3600, 7200].map(|seconds| seconds * SECOND);
        for (linger, max_ttl) in windows
            .iter()
            .flat_map(|one| windows.map(|two| (*one, two)))
        {
            let rules = Rules {
                linger,
                max_ttl,
                stale_for: SECOND,
                ..Rules::default()
            };
            let ttl = rules.clamp(max_ttl);
            let mut world = World::with(1, rules);
            world.answer(0, Family::V4, 7200, &["20.0.0.1", "20.0.0.2"]);
            world.at(ttl).answer(0, Family::V4, 7200, &["20.0.0.1"]);
            let until = ttl + linger.max(ttl + REFRESH_TIME);
            if linger.is_zero() {
                assert_eq!(world.says("20.0.0.2"), "not-listed", "lingering is off");
                continue;
            }
            world.at(2 * ttl + REFRESH_TIME - MS);
            assert_eq!(world.says("20.0.0.2"), "lingering", "{linger:?} {ttl:?}");
            let mut after = World { ..world };
            after.at(until - MS);
            assert_eq!(after.says("20.0.0.2"), "lingering", "{linger:?} {ttl:?}");
            after.at(until);
            assert_ne!(after.says("20.0.0.2"), "lingering", "{linger:?} {ttl:?}");
        }
    }

    #[test]
    fn a_denial_that_took_addresses_away_is_asked_again_before_they_go() {
        for (linger, negative_ttl, due_in) in [
            (HOUR, 3600, 900),
            (HOUR, 60, 60),
            (60 * SECOND, 3600, 15),
            (8 * SECOND, 3600, 5),
            (SECOND, 3600, 5),
        ] {
            let rules = Rules {
                linger,
                ..Rules::default()
            };
            let mut world = World::with(2, rules);
            world.sunny(60);
            let denied = || {
                let error = ResolveError::new(ResolveErrorKind::NxDomain);
                Err(error.with_negative_ttl(negative_ttl * SECOND))
            };
            world.at(60 * SECOND);
            world.answer(1, Family::V4, 3600, &["20.0.1.1"]);
            world.apply(0, Family::V4, denied());
            assert_eq!(world.state(0, Family::V4), QuestionStatus::Denied);
            assert_eq!(world.due_in(0, Family::V4), due_in * SECOND, "{linger:?}");
            let asked_again = 60 * SECOND + due_in * SECOND + REFRESH_TIME;
            world.at(asked_again - MS);
            assert_eq!(world.says("20.0.0.1"), "lingering", "{linger:?}");
            if asked_again < 60 * SECOND + linger {
                world.apply(0, Family::V4, denied());
                assert_eq!(world.due_in(0, Family::V4), due_in * SECOND, "{linger:?}");
            }
            world.at(60 * SECOND + 2 * HOUR);
            world.answer(1, Family::V4, 3600, &["20.0.1.1"]);
            world.apply(0, Family::V4, denied());
            let due_in = negative_ttl * SECOND;
            assert_eq!(world.due_in(0, Family::V4), due_in, "nothing lingers");
        }
    }

    #[test]
    fn rotating_subsets_do_not_flap() {
        let mut world = World::new(1);
        let all: Vec<_> = (0..40).map(|n| format!("20.0.0.{n}")).collect();
        let mut reported = 0;
        for round in 0..20u32 {
            let first = (round as usize * 8) % 40;
            let subset: Vec<_> = all[first..first + 8].iter().map(String::as_str).collect();
            let notices =
                world
                    .at(round * 30 * SECOND)
                    .apply(0, Family::V4, Ok(answer(30, &subset)));
            reported += changes(&notices).len();
        }
        assert_eq!(reported, 5, "each subset is new once");
        assert!(
            all.iter()
                .all(|address| world.says(address) != "not-listed")
        );
    }

    #[test]
    fn the_oldest_go_first_when_too_many_linger() {
        let rules = Rules {
            max_lingering: 2,
            ..Rules::default()
        };
        let mut world = World::with(1, rules);
        for round in 0..4u32 {
            let outcome = Ok(answer(60, &[&format!("20.0.0.{round}")]));
            let notices = world.at(round * 60 * SECOND).apply(0, Family::V4, outcome);
            let crowded = notices
                .iter()
                .any(|notice| matches!(notice, Notice::LingerLimitReached { .. }));
            assert_eq!(crowded, round == 3);
        }
        let says: Vec<_> = (0..4).map(|n| world.says(&format!("20.0.0.{n}"))).collect();
        assert_eq!(says, ["not-listed", "lingering", "lingering", "fresh"]);
    }

    #[test]
    fn an_address_that_was_no_longer_admitted_does_not_come_back_by_lingering() {
        let mut world = World::new(1);
        world.answer(0, Family::V4, 60, &["20.0.0.1"]);
        world
            .at(60 * SECOND)
            .fail(0, Family::V4, ResolveErrorKind::Timeout);
        world.at(60 * SECOND + 24 * HOUR);
        assert_eq!(world.says("20.0.0.1"), "unresolved");
        world.answer(0, Family::V4, 60, &["20.0.0.2"]);
        assert_eq!(world.says("20.0.0.1"), "not-listed");
    }

    #[test]
    fn an_address_that_moves_between_hosts_is_never_refused() {
        let mut world = World::new(2);
        world.sunny(60);
        world
            .at(60 * SECOND)
            .answer(0, Family::V4, 60, &["20.0.0.2"]);
        assert_eq!(world.says("20.0.0.1"), "lingering");
        world.answer(1, Family::V4, 60, &["20.0.0.1"]);
        assert_eq!(world.says("20.0.0.1"), "fresh");
    }
}

mod stale {
    use super::*;

    #[test]
    fn the_last_answer_counts_through_every_kind_of_failure_until_the_window_ends() {
        for kind in FAILURES {
            let mut world = World::new(1);
            world.answer(0, Family::V4, 60, &["20.0.0.1"]);
            world.at(60 * SECOND).fail(0, Family::V4, kind);
            assert_eq!(world.says("20.0.0.1"), "stale", "{kind:?}");
            assert_eq!(world.says("20.0.9.9"), "not-listed", "{kind:?}");
            world.at(60 * SECOND + 24 * HOUR - MS);
            assert_eq!(world.says("20.0.0.1"), "stale", "{kind:?}");
            world.at(60 * SECOND + 24 * HOUR);
            assert_eq!(world.says("20.0.0.1"), "unresolved", "{kind:?}");
            assert_eq!(world.says("20.0.9.9"), "unresolved", "{kind:?}");
        }
    }

    #[test]
    fn a_dead_refresher_fails_closed() {
        let mut world = World::new(1);
        world.sunny(60);
        world.at(60 * SECOND + 24 * HOUR);
        assert_eq!(world.says("20.0.0.1"), "unresolved");
        assert_eq!(world.says("2a01::1"), "unresolved");
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
        assert_eq!(world.says("20.0.0.2"), "unresolved", "stale has ended");
        assert_eq!(
            world.says("20.0.0.1"),
            "lingering",
            "its own window is open"
        );
        world.at(60 * SECOND + HOUR);
        assert_eq!(world.says("20.0.0.1"), "unresolved");
    }

    #[test]
    fn a_failure_before_any_answer_is_unresolved_whatever_its_kind() {
        for kind in FAILURES.into_iter().chain([ResolveErrorKind::NxDomain]) {
            let mut world = World::new(1);
            world.fail(0, Family::V4, kind);
            assert_eq!(world.says("20.0.0.1"), "unresolved", "{kind:?}");
            assert!(world.set.addresses(world.now).is_empty());
        }
    }
}

mod denials {
    use super::*;

    const DENIALS: [ResolveErrorKind; 2] = [ResolveErrorKind::NxDomain, ResolveErrorKind::NoData];

    #[test]
    fn a_denial_is_believed_once_another_host_answers_and_its_addresses_linger_and_go() {
        for kind in DENIALS {
            let mut world = World::new(2);
            world.sunny(60);
            world.at(60 * SECOND).fail(0, Family::V4, kind);
            assert_eq!(world.state(0, Family::V4), QuestionStatus::Failing);
            assert_eq!(world.says("20.0.0.1"), "stale");
            world
                .at(61 * SECOND)
                .answer(1, Family::V4, 60, &["20.0.1.1"]);
            assert_eq!(world.state(0, Family::V4), QuestionStatus::Denied);
            assert_eq!(world.says("20.0.0.1"), "lingering");
            world.at(61 * SECOND + HOUR - MS);
            assert_eq!(world.says("20.0.0.1"), "lingering");
            world.at(61 * SECOND + HOUR);
            assert_eq!(world.says("20.0.0.1"), "not-listed");
        }
    }

    #[test]
    fn hosts_that_were_not_asked_again_yet_bear_out_no_denial() {
        for kind in DENIALS {
            let mut world = World::new(4);
            for number in 0..4 {
                let ttl = 60 + 20 * number as u64;
                world.answer(number, Family::V4, ttl, &[&own_address(number)]);
            }
            // The zone breaks, and each host is asked as its TTL ends.
            for round in 0..120u32 {
                for number in 0..4u32 {
                    let at = (60 + 20 * number + 60 * round) * SECOND;
                    world.at(at).fail(number as usize, Family::V4, kind);
                }
            }
            for number in 0..4 {
                assert_eq!(
                    world.says(&own_address(number)),
                    "stale",
                    "{kind:?} {number}"
                );
            }
        }
    }

    #[test]
    fn a_denial_of_everything_is_not_believed() {
        for kind in DENIALS {
            let mut world = World::new(2);
            world.sunny(60);
            world.at(66 * SECOND);
            for number in 0..2 {
                world.fail(number, Family::V4, kind);
                world.fail(number, Family::V6, kind);
            }
            for number in 0..2 {
                assert_eq!(world.state(number, Family::V4), QuestionStatus::Failing);
                assert_eq!(world.says(&own_address(number)), "stale");
            }
            world.at(60 * SECOND + 24 * HOUR);
            assert_eq!(
                world.says("20.0.0.1"),
                "unresolved",
                "and the stale window ends"
            );
        }
    }

    #[test]
    fn a_host_that_does_not_exist_hurts_no_other_and_strangers_get_a_sure_no() {
        let mut world = World::new(3);
        world.answer(0, Family::V4, 60, &["20.0.0.1"]);
        world.answer(1, Family::V4, 60, &["20.0.1.1"]);
        world.fail(2, Family::V4, ResolveErrorKind::NxDomain);
        assert_eq!(world.says("20.0.0.1"), "fresh");
        assert_eq!(world.says("20.0.9.9"), "not-listed");
    }

    #[test]
    fn a_denial_that_comes_in_before_the_first_answer_is_believed_with_it() {
        let mut world = World::new(2);
        world.fail(0, Family::V6, ResolveErrorKind::NoData);
        world.fail(1, Family::V4, ResolveErrorKind::NxDomain);
        world.fail(1, Family::V6, ResolveErrorKind::NxDomain);
        assert_eq!(world.state(0, Family::V6), QuestionStatus::Failing);
        world.answer(0, Family::V4, 60, &["20.0.0.1"]);
        assert_eq!(world.state(0, Family::V6), QuestionStatus::Denied);
        assert_eq!(world.state(1, Family::V4), QuestionStatus::Denied);
        assert_eq!(world.says("20.0.9.9"), "not-listed");
        assert_eq!(world.says("2a01::1"), "not-listed");
        assert_eq!(world.due_in(0, Family::V6), 60 * SECOND);
    }

    #[test]
    fn no_data_costs_a_single_host_its_other_family_nothing() {
        let mut world = World::new(1);
        world.answer(0, Family::V4, 60, &["20.0.0.1"]);
        world.fail(0, Family::V6, ResolveErrorKind::NoData);
        assert_eq!(world.says("2a01::1"), "not-listed");
        assert_eq!(world.says("20.0.0.1"), "fresh");
    }

    #[test]
    fn no_data_for_addresses_that_are_held_is_not_believed_on_the_same_host_s_word() {
        let mut world = World::new(1);
        world.answer(0, Family::V4, 60, &["20.0.0.1"]);
        world.answer(0, Family::V6, 60, &["2a01::1"]);
        world
            .at(60 * SECOND)
            .fail(0, Family::V6, ResolveErrorKind::NoData);
        assert_eq!(world.says("2a01::1"), "stale");
    }

    #[test]
    fn nxdomain_speaks_for_the_family_that_was_asked_for() {
        // Some load balancers answer NXDOMAIN to AAAA, RFC 4074 section 4.2.
        let mut world = World::new(2);
        world.sunny(3600);
        world
            .at(10 * SECOND)
            .fail(0, Family::V6, ResolveErrorKind::NxDomain);
        world.answer(1, Family::V4, 3600, &["20.0.1.1"]);
        assert_eq!(world.says("20.0.0.1"), "fresh");
        assert_eq!(world.says("2a01::9"), "not-listed");
        let mut world = World::new(2);
        world.answer(1, Family::V4, 3600, &["20.0.1.1"]);
        world.fail(0, Family::V4, ResolveErrorKind::Timeout);
        world.fail(0, Family::V6, ResolveErrorKind::NxDomain);
        assert_eq!(
            world.says("20.0.9.9"),
            "unresolved",
            "nobody knows the A records"
        );
    }

    #[test]
    fn which_host_is_named_first_does_not_decide_which_denials_are_believed_late() {
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

            // It confirms the denial of what the other host holds, and not the one about the same host.
            world.at(20 * SECOND);
            world.answer(short, Family::V6, 60, &["2a01:111::1"]);
            assert_eq!(world.state(long, Family::V4), QuestionStatus::Denied);
            assert_eq!(world.state(short, Family::V4), QuestionStatus::Failing);
        }
    }

    #[test]
    fn a_host_of_another_zone_bears_out_no_denial() {
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
        assert_eq!(world.says("20.0.0.1"), "stale");
        assert_eq!(world.says("20.0.1.1"), "stale");
    }

    /// Hosts 0 and 1 as named, each with an address of its own and a TTL of 60 s.
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
    fn another_zone_confirms_no_denial_of_what_has_answered_even_when_its_window_is_over() {
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
            assert_eq!(world.says("20.0.0.1"), "unresolved", "{kind:?}");
        }
    }

    #[test]
    fn bounds_that_cross_are_no_panic() {
        let rules = Rules {
            min_ttl: 2 * HOUR,
            ..Rules::default()
        };
        let mut world = World::with(1, rules);
        world.answer(0, Family::V4, 60, &["20.0.0.1"]);
        assert_eq!(world.due_in(0, Family::V4), 2 * HOUR);
    }

    #[test]
    fn a_denial_is_asked_again_after_its_own_ttl_clamped() {
        for (ttl, due_in) in [(None, 60), (Some(0), 5), (Some(30), 30), (Some(9999), 3600)] {
            let mut world = World::new(2);
            world.sunny(60);
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
    fn an_answer_without_an_address_is_no_data() {
        let mut world = World::new(2);
        world.sunny(60);
        world.answer(0, Family::V4, 30, &[]);
        assert_eq!(world.state(0, Family::V4), QuestionStatus::Denied);
        assert_eq!(world.due_in(0, Family::V4), 30 * SECOND);
    }
}

mod families {
    use super::*;

    #[test]
    fn a_failing_family_neither_drops_nor_freshens_the_other() {
        for (good, bad, held, says_bad) in [
            (Family::V4, Family::V6, "20.0.0.1", "2a01::1"),
            (Family::V6, Family::V4, "2a01::1", "20.0.0.1"),
        ] {
            let mut world = World::new(1);
            world.answer(0, Family::V4, 60, &["20.0.0.1"]);
            world.answer(0, Family::V6, 60, &["2a01::1"]);
            world
                .at(60 * SECOND)
                .fail(0, bad, ResolveErrorKind::ServFail);
            world.answer(0, good, 60, &[held]);
            assert_eq!(world.says(held), "fresh");
            assert_eq!(world.says(says_bad), "stale");
            world.at(60 * SECOND + 24 * HOUR);
            assert_eq!(world.says(says_bad), "unresolved");
        }
    }

    #[test]
    fn unresolved_is_judged_for_the_peer_s_family() {
        let mut world = World::new(1);
        world.answer(0, Family::V4, 60, &["20.0.0.1"]);
        world.fail(0, Family::V6, ResolveErrorKind::ServFail);
        assert_eq!(world.says("20.0.9.9"), "not-listed");
        assert_eq!(world.says("2a01::9"), "unresolved");
    }
}

mod given_up {
    use super::*;

    /// Host 0 answers every hour, host 1 fails, from `from` to `to`.
    fn go_on(world: &mut World, from: u32, to: u32) {
        for hour in from..=to {
            world.at(hour * HOUR);
            world.answer(0, Family::V4, 3600, &["20.0.0.1"]);
            world.fail(1, Family::V4, ResolveErrorKind::ServFail);
        }
    }

    #[test]
    fn a_host_that_never_answers_makes_strangers_unresolved_for_the_stale_window_only() {
        let mut world = World::new(2);
        go_on(&mut world, 0, 23);
        world.at(24 * HOUR - MS);
        assert_eq!(world.says("20.0.9.9"), "unresolved");
        world.at(24 * HOUR);
        assert_eq!(world.says("20.0.9.9"), "not-listed");
        assert_eq!(world.state(1, Family::V4), QuestionStatus::GivenUp);
        assert_eq!(world.says("20.0.0.1"), "fresh");
    }

    #[test]
    fn a_host_that_stopped_answering_keeps_its_addresses_for_the_window_and_then_goes() {
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
            let says = (world.says("20.0.1.1"), world.says("20.0.9.9"));
            assert_eq!(says, (own, unlisted), "{at:?}");
        }
    }

    #[test]
    fn a_host_that_is_given_up_is_still_asked_and_can_come_back() {
        let mut world = World::new(2);
        go_on(&mut world, 0, 30);
        assert_eq!(world.due_in(1, Family::V4), 60 * SECOND);
        world.answer(1, Family::V4, 60, &["20.0.1.1"]);
        assert_eq!(world.says("20.0.1.1"), "fresh");
        assert_eq!(world.state(1, Family::V4), QuestionStatus::Answered);
    }

    #[test]
    fn a_hole_in_asking_begins_the_time_for_giving_up_anew() {
        for (hole, is_hole) in [(HOUR, false), (HOUR + MS, true), (20 * HOUR, true)] {
            let mut world = World::new(2);
            world.sunny(60);
            let fail = |world: &mut World, at| {
                world.at(at).answer(0, Family::V4, 3600, &["20.0.0.1"]);
                world.fail(1, Family::V4, ResolveErrorKind::ServFail);
            };
            for hour in 1..=20 {
                fail(&mut world, hour * HOUR);
            }
            for hour in 0..=10 {
                fail(&mut world, 20 * HOUR + hole + hour * HOUR);
            }
            let says = if is_hole { "unresolved" } else { "not-listed" };
            assert_eq!(world.says("20.0.9.9"), says, "{hole:?}");
            let health = world.set.health(world.now);
            let since = health[1].families[0].failing_since.unwrap();
            assert_eq!(since, world.start + HOUR, "the first failure of all");
            for hour in 11..=24 {
                fail(&mut world, 20 * HOUR + hole + hour * HOUR);
            }
            assert_eq!(world.says("20.0.9.9"), "not-listed", "{hole:?}");
        }
    }

    #[test]
    fn time_alone_gives_up_only_what_was_asked_a_moment_ago() {
        for (last, says) in [(23 * HOUR, "not-listed"), (23 * HOUR - MS, "unresolved")] {
            let mut world = World::new(2);
            for hour in 0..=23 {
                world.at(last.saturating_sub((23 - hour) * HOUR));
                world.fail(1, Family::V4, ResolveErrorKind::ServFail);
            }
            world
                .at(23 * HOUR)
                .answer(0, Family::V4, 3600, &["20.0.0.1"]);
            world.at(24 * HOUR + SECOND);
            assert_eq!(world.says("20.0.9.9"), says, "{last:?}");
        }
    }

    #[test]
    fn a_short_stale_window_is_not_used_up_by_a_hole() {
        let rules = Rules {
            stale_for: 60 * SECOND,
            max_backoff: SECOND,
            ..Rules::default()
        };
        let mut world = World::with(2, rules);
        world.fail(1, Family::V4, ResolveErrorKind::ServFail);
        world.at(61 * SECOND);
        world.answer(0, Family::V4, 3600, &["20.0.0.1"]);
        assert_eq!(world.says("20.0.9.9"), "unresolved", "asked once");
        world.fail(1, Family::V4, ResolveErrorKind::ServFail);
        assert_eq!(world.says("20.0.9.9"), "unresolved", "a hole");
        for second in [70, 80, 90, 100, 110, 121] {
            world.at(second * SECOND);
            world.fail(1, Family::V4, ResolveErrorKind::ServFail);
        }
        assert_eq!(world.says("20.0.9.9"), "not-listed");
    }

    #[test]
    fn an_answer_from_before_an_outage_gives_no_host_up() {
        let mut world = World::new(2);
        world.sunny(60);
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
                assert_eq!(world.says("20.0.0.1"), "unresolved", "{at:?}");
                assert_eq!(world.says("20.0.9.9"), "unresolved", "{at:?}");
            }
        }
    }

    #[test]
    fn an_answer_that_is_current_gives_no_host_up_while_its_own_question_fails() {
        let mut world = World::new(2);
        for hour in 0..=23 {
            world.at(hour * HOUR);
            world.fail(0, Family::V4, ResolveErrorKind::Timeout);
        }
        world
            .at(23 * HOUR + HOUR / 2)
            .answer(1, Family::V4, 3600, &["20.0.1.1"]);
        world.at(24 * HOUR);
        assert_eq!(world.says("20.0.9.9"), "not-listed");
        world.fail(1, Family::V4, ResolveErrorKind::Timeout);
        assert_eq!(world.says("20.0.9.9"), "unresolved");
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
        assert_eq!(world.says("20.0.9.9"), "unresolved");
        world.answer(1, Family::V4, 60, &["20.0.1.1"]);
        assert_eq!(world.says("20.0.9.9"), "not-listed");
        for hour in 26..=50 {
            world.at(hour * HOUR);
            fail(&mut world, 0);
            fail(&mut world, 1);
            let says = match hour {
                ..50 => "not-listed",
                _ => "unresolved",
            };
            let shown = world.says("20.0.9.9");
            assert_eq!(shown, says, "{hour}");
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
        for (at, says) in [
            (70 * SECOND - MS, "not-listed"),
            (70 * SECOND, "unresolved"),
            (73 * SECOND - MS, "unresolved"),
            (73 * SECOND, "not-listed"),
            (3600 * SECOND, "not-listed"),
            (3606 * SECOND + 500 * MS, "unresolved"),
        ] {
            world.at(at);
            assert_eq!(world.says("20.0.9.9"), says, "{at:?}");
            let given_up = at >= 73 * SECOND && says == "not-listed";
            let state = world.state(0, Family::V4);
            assert_eq!(state == QuestionStatus::GivenUp, given_up, "{at:?}");
        }
    }

    #[test]
    fn a_zone_that_is_silent_as_a_whole_is_not_given_up_for_the_answers_of_another() {
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
            world.says("20.0.9.9")
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
        world.sunny(60);
        world.at(60 * SECOND);
        for number in 0..2 {
            world.fail(number, Family::V4, ResolveErrorKind::Timeout);
        }
        for hours in [1, 24, 25, 1000] {
            world.at(60 * SECOND + hours * HOUR);
            let says = if hours == 1 {
                "not-listed"
            } else {
                "unresolved"
            };
            assert_eq!(world.says("20.0.9.9"), says, "{hours}");
        }
    }
}

mod bad_answers {
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
        assert_eq!(world.says("20.0.0.1"), "fresh");
        for peer in ["127.0.0.1", "10.0.0.1", "192.168.0.1"] {
            assert_eq!(world.says(peer), "not-listed", "{peer}");
        }
    }

    #[test]
    fn an_answer_of_nothing_but_special_addresses_is_a_failure_and_the_old_one_is_kept() {
        let mut world = World::new(1);
        world.answer(0, Family::V4, 60, &["20.0.0.1"]);
        world
            .at(60 * SECOND)
            .answer(0, Family::V4, 60, &["192.168.1.1"]);
        assert_eq!(world.says("20.0.0.1"), "stale");
        assert_eq!(world.says("192.168.1.1"), "not-listed");
        let health = world.set.health(world.now);
        let family = &health[0].families[0];
        let kind = family.last_error.as_ref().unwrap().kind();
        assert_eq!(kind, ResolveErrorKind::OnlySpecialAddresses);
        assert_eq!(family.dropped, ["192.168.1.1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn special_purpose_addresses_are_taken_where_that_is_asked_for() {
        let rules = Rules {
            insecure_allow_special_addresses: true,
            ..Rules::default()
        };
        let mut world = World::with(1, rules);
        world.answer(0, Family::V4, 60, &["127.0.1.1"]);
        assert_eq!(world.says("127.0.1.1"), "fresh");
    }

    #[test]
    fn too_many_addresses_are_refused_whole_and_the_old_answer_is_kept() {
        let mut world = World::new(1);
        world.answer(0, Family::V4, 60, &["20.0.0.1"]);
        let many = |count: u32| {
            let addresses = (0..count).map(|n| IpAddr::V4((0x1500_0000 + n).into()));
            Answer::new(addresses, 60 * SECOND)
        };
        world.at(60 * SECOND).apply(0, Family::V4, Ok(many(257)));
        assert_eq!(world.says("20.0.0.1"), "stale");
        assert_eq!(world.says("21.0.0.0"), "not-listed");
        world.apply(0, Family::V4, Ok(many(256)));
        assert_eq!(world.says("21.0.0.255"), "fresh");
    }

    #[test]
    fn an_answer_about_a_host_that_is_not_in_the_set_changes_nothing() {
        let mut world = World::new(1);
        assert!(
            world
                .apply(7, Family::V4, Ok(answer(60, &["20.0.0.1"])))
                .is_empty()
        );
        assert_eq!(world.says("20.0.0.1"), "unresolved");
    }
}

mod back_off {
    use super::*;

    #[test]
    fn pauses_double_from_the_floor_to_a_minute_and_start_over_after_an_answer() {
        for (least, pauses) in [
            (1, [1, 2, 4, 8, 16, 32, 60, 60]),
            (5, [5, 10, 20, 40, 60, 60, 60, 60]),
        ] {
            let rules = Rules {
                min_ttl: least * SECOND,
                ..Rules::default()
            };
            let mut world = World::with(1, rules);
            for pause in pauses {
                world.fail(0, Family::V4, ResolveErrorKind::Timeout);
                assert_eq!(world.due_in(0, Family::V4), pause * SECOND);
                assert_eq!(
                    world.due_in(0, Family::V6),
                    Duration::ZERO,
                    "each question for itself"
                );
            }
            world.answer(0, Family::V4, 60, &["20.0.0.1"]);
            world.fail(0, Family::V4, ResolveErrorKind::Timeout);
            assert_eq!(world.due_in(0, Family::V4), pauses[0] * SECOND);
        }
    }

    #[test]
    fn never_overflows() {
        let mut world = World::new(1);
        for _ in 0..100 {
            world.fail(0, Family::V4, ResolveErrorKind::Timeout);
        }
        assert_eq!(world.due_in(0, Family::V4), 60 * SECOND);
        let far = Rules {
            linger: Duration::MAX,
            stale_for: Duration::MAX,
            max_ttl: Duration::MAX,
            max_backoff: Duration::MAX,
            ..Rules::default()
        };
        let mut world = World::with(1, far);
        world.apply(
            0,
            Family::V4,
            Ok(Answer::new(["20.0.0.1".parse().unwrap()], Duration::MAX)),
        );
        world.answer(0, Family::V4, 60, &["20.0.0.2"]);
        for _ in 0..100 {
            world.fail(0, Family::V4, ResolveErrorKind::Timeout);
        }
        world.at(10_000 * HOUR);
        assert_eq!(world.says("20.0.0.1"), "lingering");
        assert_eq!(world.says("20.0.0.2"), "stale");
    }
}

mod readiness {
    use super::*;

    #[test]
    fn ready_when_all_was_tried_and_something_is_in_force() {
        let mut world = World::new(2);
        world.answer(0, Family::V4, 60, &["20.0.0.1"]);
        world.fail(0, Family::V6, ResolveErrorKind::NoData);
        world.fail(1, Family::V4, ResolveErrorKind::Timeout);
        assert!(!world.set.is_attempted() && !world.set.is_ready(world.now));
        world.fail(1, Family::V6, ResolveErrorKind::Timeout);
        assert!(world.set.is_attempted() && world.set.is_ready(world.now));
    }

    #[test]
    fn not_ready_when_all_was_tried_in_vain_and_not_again_when_nothing_is_in_force() {
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
    fn a_host_that_is_added_later_does_not_make_it_unready() {
        let mut world = World::new(1);
        world.sunny(60);
        world.set.replace_hosts([host(0), host(1)], world.now);
        assert!(world.set.is_ready(world.now));
    }
}

mod replacing_hosts {
    use super::*;

    #[test]
    fn addresses_of_a_removed_host_go_at_once_and_those_of_others_stay() {
        let mut world = World::new(2);
        world.sunny(60);
        world
            .at(30 * SECOND)
            .answer(1, Family::V4, 60, &["20.0.1.2"]);
        assert_eq!(world.says("20.0.1.1"), "lingering");
        let notices = world.set.replace_hosts([host(0)], world.now);
        assert_eq!(changes(&notices), [("h1.psp.test".to_owned(), 0, 2)]);
        assert_eq!(world.says("20.0.0.1"), "fresh");
        assert_eq!(world.says("20.0.1.1"), "not-listed");
        assert_eq!(world.says("20.0.1.2"), "not-listed");
    }

    #[test]
    fn a_host_that_is_put_back_starts_anew() {
        let mut world = World::new(2);
        world.sunny(60);
        world.set.replace_hosts([host(0)], world.now);
        world.set.replace_hosts([host(0), host(1)], world.now);
        assert_eq!(world.says("20.0.1.1"), "unresolved");
        assert_eq!(world.due_in(1, Family::V4), Duration::ZERO);
    }

    #[test]
    fn a_host_that_is_named_twice_is_one() {
        let mut world = World::new(1);
        world
            .set
            .replace_hosts([host(0), host(1), host(0)], world.now);
        assert_eq!(world.set.hosts().count(), 2);
    }
}

mod notices {
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
    fn recovery_is_told_with_the_time_of_the_first_failure() {
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
}

mod restoring {
    use super::*;

    /// What a set at this moment knows, after a restart.
    fn restart(world: &World, rules: Rules, hosts: &[usize], now: Instant) -> World {
        let hosts = hosts.iter().map(|number| host(*number));
        let mut set = AllowSet::new(rules, hosts, &[], now).unwrap();
        set.restore(world.set.save(), now);
        World {
            set,
            start: world.start,
            now,
        }
    }

    #[test]
    fn restored_answers_count_until_dns_confirms_or_replaces_them() {
        let mut world = World::new(2);
        world.sunny(60);
        let mut again = restart(&world, Rules::default(), &[0, 1], world.start + 10 * SECOND);
        assert_eq!(again.says("20.0.0.1"), "restored");
        assert_eq!(again.says("20.0.9.9"), "not-listed");
        assert_eq!(
            again.due_in(0, Family::V4),
            Duration::ZERO,
            "DNS is asked at once"
        );
        again.answer(0, Family::V4, 60, &["20.0.0.1"]);
        assert_eq!(again.says("20.0.0.1"), "fresh");
        again.answer(1, Family::V4, 60, &["20.0.1.2"]);
        assert_eq!(again.says("20.0.1.1"), "lingering");
    }

    #[test]
    fn no_number_of_restarts_stretches_a_window() {
        let mut world = World::new(1);
        world.answer(0, Family::V4, 60, &["20.0.0.1"]);
        world
            .at(60 * SECOND)
            .answer(0, Family::V4, 60, &["20.0.0.2"]);
        for hour in 1..60 {
            let now = world.start + hour * HOUR / 2;
            world = restart(&world, Rules::default(), &[0], now);
            world.fail(0, Family::V4, ResolveErrorKind::Timeout);
            let linger_open = now < world.start + 60 * SECOND + HOUR;
            let stale_open = now < world.start + 120 * SECOND + 24 * HOUR;
            assert_eq!(world.says("20.0.0.1") == "lingering", linger_open, "{hour}");
            assert_eq!(world.says("20.0.0.2") == "restored", stale_open, "{hour}");
        }
        assert_eq!(world.says("20.0.0.2"), "unresolved");
    }

    #[test]
    fn a_restart_begins_the_time_for_giving_up_anew() {
        let mut world = World::new(2);
        for hour in 0..=52 {
            world
                .at(hour * HOUR)
                .answer(0, Family::V4, 3600, &["20.0.0.1"]);
            world.fail(1, Family::V4, ResolveErrorKind::Timeout);
            if hour == 20 {
                world = restart(&world, Rules::default(), &[0, 1], world.now);
            }
            let says = if hour < 45 {
                "unresolved"
            } else {
                "not-listed"
            };
            assert_eq!(world.says("20.0.9.9"), says, "{hour}");
        }
    }

    #[test]
    fn a_host_that_fails_once_after_a_long_stop_is_not_given_up() {
        let mut world = World::new(2);
        world.sunny(60);
        let start = world.start + 48 * HOUR;
        let mut again = restart(&world, Rules::default(), &[0, 1], start);
        again.fail(0, Family::V4, ResolveErrorKind::ServFail);
        again.at(48 * HOUR + 5 * MS);
        again.answer(1, Family::V4, 60, &["20.0.1.1"]);
        assert_eq!(again.says("20.0.0.1"), "unresolved");
        assert_eq!(again.state(0, Family::V4), QuestionStatus::Failing);
    }

    #[test]
    fn restored_answers_give_no_host_up() {
        let short = Rules {
            stale_for: 10 * SECOND,
            ..Rules::default()
        };
        let mut world = World::with(2, short.clone());
        world.answer(1, Family::V4, 3600, &["20.0.1.1"]);
        let mut again = restart(&world, short, &[0, 1], world.start + SECOND);
        for second in [1, 6, 11] {
            again
                .at(second * SECOND)
                .fail(0, Family::V4, ResolveErrorKind::Timeout);
        }
        assert_eq!(again.says("20.0.9.9"), "unresolved");
        again.answer(1, Family::V4, 3600, &["20.0.1.1"]);
        assert_eq!(again.says("20.0.9.9"), "not-listed");
    }

    #[test]
    fn the_end_of_lingering_is_kept_and_bounded_by_the_rules_of_today() {
        let mut world = World::new(1);
        world.answer(0, Family::V4, 60, &["20.0.0.1", "20.0.0.2"]);
        world
            .at(60 * SECOND)
            .answer(0, Family::V4, 3600, &["20.0.0.1"]);
        let until = 60 * SECOND + HOUR + world.set.rules.refresh_time();
        let rules = |linger, max_ttl| Rules {
            linger,
            max_ttl,
            ..Rules::default()
        };
        let refresh_time = Rules::default().refresh_time();
        for (rules, until) in [
            (Rules::default(), until),
            (rules(2 * HOUR, HOUR), until),
            (rules(SECOND, HOUR), until),
            (rules(SECOND, 600 * SECOND), 660 * SECOND + refresh_time),
            (rules(900 * SECOND, 600 * SECOND), 960 * SECOND),
            (rules(Duration::ZERO, HOUR), 60 * SECOND),
        ] {
            let mut again = restart(&world, rules, &[0], world.now);
            again.answer(0, Family::V4, 3600, &["20.0.0.1"]);
            if 60 * SECOND < until {
                again.at(until - MS);
                assert_eq!(again.says("20.0.0.2"), "lingering", "{until:?}");
            }
            again.at(until);
            assert_eq!(again.says("20.0.0.2"), "not-listed", "{until:?}");
        }
    }

    #[test]
    fn a_file_without_the_end_of_lingering_gets_the_linger_window() {
        let mut world = World::new(1);
        world.answer(0, Family::V4, 60, &["20.0.0.1"]);
        world
            .at(60 * SECOND)
            .answer(0, Family::V4, 3600, &["20.0.0.2"]);
        let mut saved = world.set.save();
        for lingering in saved[0].lingering.values_mut() {
            lingering.until = None;
        }
        let mut set = AllowSet::new(Rules::default(), [host(0)], &[], world.now).unwrap();
        set.restore(saved, world.now);
        world.set = set;
        world.at(60 * SECOND + HOUR - MS);
        assert_eq!(world.says("20.0.0.1"), "lingering");
        world.at(60 * SECOND + HOUR);
        assert_eq!(world.says("20.0.0.1"), "not-listed");
    }

    #[test]
    fn times_that_the_rules_of_today_do_not_allow_are_cut_when_they_are_restored() {
        let now = now() + 100 * HOUR;
        let restored = |rules: Rules, answer: Option<LastAnswer>, denied, stale_from| {
            let mut set = AllowSet::new(rules, [host(0)], &[], now).unwrap();
            let records = vec![PersistedQuestion {
                family: Family::V4,
                stale_from,
                denied,
                answer,
            }];
            set.restore(
                vec![PersistedHost {
                    host: host(0),
                    records,
                    lingering: BTreeMap::new(),
                }],
                now,
            );
            World {
                set,
                start: now,
                now,
            }
        };
        let held = |answered_at, ttl_ends| LastAnswer {
            addresses: ["20.0.0.1".parse().unwrap()].into(),
            ttl: HOUR,
            answered_at,
            ttl_ends,
            restored: true,
        };
        let day = Rules::default().stale_for;

        // An answer of the future is one of now.
        let answer = held(now + 50 * HOUR, now + 51 * HOUR);
        let mut world = restored(Rules::default(), Some(answer), false, now + 51 * HOUR);
        let verdict = world.set.verdict("20.0.0.1".parse().unwrap(), now);
        assert_eq!(verdict.allowed().unwrap().since(), now);
        world.at(HOUR + day - MS);
        assert_eq!(world.says("20.0.0.1"), "restored");
        world.at(HOUR + day);
        assert_eq!(world.says("20.0.0.1"), "unresolved");

        // A TTL above the greatest of today is that.
        let answer = held(now, now + 50 * HOUR);
        let short = Rules {
            max_ttl: 60 * SECOND,
            ..Rules::default()
        };
        let mut world = restored(short, Some(answer), false, now);
        world.at(60 * SECOND + day);
        assert_eq!(world.says("20.0.0.1"), "unresolved");

        // A denial of the future is one of now.
        let mut world = restored(Rules::default(), None, true, now + 50 * HOUR);
        world.at(day - MS);
        assert_eq!(world.says("20.0.9.9"), "not-listed");
        world.at(day);
        assert_eq!(world.says("20.0.9.9"), "unresolved");
    }

    #[test]
    fn no_more_addresses_linger_after_a_restart_than_today_may() {
        let mut world = World::new(1);
        for number in 0..4 {
            let address = format!("20.0.0.{number}");
            world
                .at(number * 60 * SECOND)
                .answer(0, Family::V4, 60, &[&address]);
        }
        let few = Rules {
            max_lingering: 2,
            ..Rules::default()
        };
        let again = restart(&world, few, &[0], world.now);
        let says = [0, 1, 2, 3].map(|number| again.says(&format!("20.0.0.{number}")));
        assert_eq!(says, ["not-listed", "lingering", "lingering", "restored"]);
    }

    #[test]
    fn the_rules_and_hosts_of_today_apply_to_what_was_saved() {
        let insecure = Rules {
            insecure_allow_special_addresses: true,
            ..Rules::default()
        };
        let mut world = World::with(2, insecure);
        world.answer(0, Family::V4, 60, &["127.0.1.1", "20.0.0.1"]);
        world.answer(1, Family::V4, 60, &["20.0.1.1"]);
        let now = world.start + SECOND;
        let again = restart(&world, Rules::default(), &[0], now);
        assert_eq!(again.says("20.0.0.1"), "restored");
        assert_eq!(again.says("127.0.1.1"), "not-listed", "special-purpose");
        assert_eq!(again.says("20.0.1.1"), "not-listed", "no longer a host");
        let few = Rules {
            max_addresses: 1,
            ..Rules::default()
        };
        world.answer(0, Family::V4, 60, &["20.0.0.1", "20.0.0.2"]);
        assert_eq!(
            restart(&world, few, &[0], now).says("20.0.0.1"),
            "unresolved"
        );
        let short = Rules {
            stale_for: HOUR,
            ..Rules::default()
        };
        let later = restart(&world, short, &[1], world.start + 60 * SECOND + HOUR);
        assert_eq!(later.says("20.0.1.1"), "unresolved");
    }

    #[test]
    fn what_lingered_is_restored_by_the_rules_of_today_and_not_from_the_future() {
        let insecure = Rules {
            insecure_allow_special_addresses: true,
            ..Rules::default()
        };
        let mut world = World::with(1, insecure);
        world.answer(0, Family::V4, 60, &["127.0.1.1", "20.0.0.1"]);
        world
            .at(60 * SECOND)
            .answer(0, Family::V4, 60, &["20.0.0.2"]);
        let again = restart(&world, Rules::default(), &[0], world.now);
        assert_eq!(again.says("20.0.0.1"), "lingering");
        assert_eq!(again.says("127.0.1.1"), "not-listed", "special-purpose");
        let early = restart(&world, Rules::default(), &[0], world.start);
        assert_eq!(early.says("20.0.0.1"), "not-listed", "not left yet");
    }

    #[test]
    fn restored_answers_do_not_make_a_denial_credible() {
        let mut world = World::new(2);
        world.sunny(3600);
        let mut again = restart(&world, Rules::default(), &[0, 1], world.start + 10 * SECOND);
        again.fail(0, Family::V4, ResolveErrorKind::NxDomain);
        again.fail(1, Family::V4, ResolveErrorKind::NxDomain);
        assert_eq!(again.says("20.0.0.1"), "restored");
        assert_eq!(again.says("20.0.1.1"), "restored");
    }
}

mod order {
    use super::*;

    #[test]
    fn the_order_of_one_round_s_answers_does_not_matter() {
        let outcomes = || {
            [
                (0, Family::V4, Ok(answer(60, &["20.0.0.1"]))),
                (
                    0,
                    Family::V6,
                    Err(ResolveError::new(ResolveErrorKind::NoData)),
                ),
                (
                    1,
                    Family::V4,
                    Err(ResolveError::new(ResolveErrorKind::NxDomain)),
                ),
                (
                    1,
                    Family::V6,
                    Err(ResolveError::new(ResolveErrorKind::NxDomain)),
                ),
                (
                    2,
                    Family::V4,
                    Err(ResolveError::new(ResolveErrorKind::Timeout)),
                ),
            ]
        };
        let verdicts = |order: &[usize]| {
            let mut world = World::new(3);
            for at in order {
                let (number, family, outcome) = outcomes()[*at].clone();
                world.apply(number, family, outcome);
            }
            let says = ["20.0.0.1", "20.0.9.9", "2a01::1"].map(|peer| world.says(peer));
            let dues: Vec<_> = world.set.questions().collect();
            (
                says,
                dues.into_iter()
                    .map(|(_, due)| due - world.start)
                    .collect::<Vec<_>>(),
            )
        };
        let first = verdicts(&[0, 1, 2, 3, 4]);
        for order in [
            [4, 3, 2, 1, 0],
            [2, 0, 4, 1, 3],
            [1, 2, 3, 4, 0],
            [3, 1, 0, 4, 2],
        ] {
            assert_eq!(verdicts(&order), first, "{order:?}");
        }
    }
}
