//! Random schedules.

use std::time::Duration;

use proptest::{
    prelude::*,
    sample::{select, subsequence},
};

use super::{
    fixtures::HOSTS,
    schedule::{Action, Advance, Asked, Gap, Outcome, Setting, Side, Step},
};
use crate::{
    Family,
    ResolveErrorKind::{
        Bogus, BrokenChain, NoData, NxDomain, Other, ServFail, Timeout, TooManyAddresses, Truncated,
    },
    set::Rules,
};

pub(super) fn rules() -> impl Strategy<Value = Rules> {
    let ttls = select(&[
        (1, 1),
        (1, 60),
        (5, 60),
        (5, 60),
        (5, 3600),
        (5, 3600),
        (30, 3600),
        (600, 7200),
    ]);
    let only_family = prop::option::weighted(0.15, select(&Family::ALL));
    let odd = (select(&[1, 5, 5, 5, 20, 60]), only_family);
    let window = || {
        prop_oneof![
            1 => 1_000_u64..20_000,
            5 => select(&[0, 1, 60_000, 60_000, 3_600_000, 86_400_000]),
        ]
        .prop_map(Duration::from_millis)
    };
    (
        ttls,
        window(),
        window(),
        select(&[0, 1, 10, 60, 60, 3600]),
        select(&[0, 2, 3, 3, 256, 256, 256]),
        select(&[0, 1, 2, 4, 1024, 1024, 1024]),
        prop::bool::weighted(0.85),
        odd,
    )
        .prop_map(
            |(ttls, linger, stale_for, backoff, max_addresses, max_lingering, special, odd)| {
                Rules {
                    min_ttl: Duration::from_secs(ttls.0),
                    max_ttl: Duration::from_secs(ttls.1),
                    linger,
                    stale_for,
                    max_backoff: Duration::from_secs(backoff),
                    max_addresses,
                    max_lingering,
                    question_time_limit: Duration::from_secs(odd.0),
                    only_family: odd.1,
                    insecure_allow_special_addresses: special,
                }
            },
        )
}

pub(super) fn setting() -> impl Strategy<Value = Setting> {
    let hosts = prop_oneof![1 => host_list(0), 12 => host_list(1)];
    (hosts, prop::bool::weighted(0.2)).prop_map(|(hosts, network)| Setting { hosts, network })
}

pub(super) fn host_list(least: usize) -> impl Strategy<Value = Vec<usize>> {
    let all: Vec<_> = (0..HOSTS.len()).collect();
    subsequence(all, least..=HOSTS.len()).prop_shuffle()
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let action = prop_oneof![
        2 => Just(Action::Wait),
        16 => (asked(), outcome()).prop_map(|(asked, outcome)| Action::Ask(asked, outcome)),
        4 => prop::collection::vec(outcome(), 2 * HOSTS.len()).prop_map(Action::Round),
        2 => outage(),
        2 => Just(Action::Expire),
        1 => host_list(0).prop_map(Action::Replace),
        2 => (
            prop::option::weighted(0.3, host_list(1)),
            advance(),
            prop::option::weighted(0.3, rules()),
        )
            .prop_map(|(hosts, down, rules)| Action::Restart { hosts, down, rules }),
    ];
    (advance(), action).prop_map(|(advance, action)| Step { advance, action })
}

pub(super) fn outage() -> impl Strategy<Value = Action> {
    let gap = prop_oneof![
        3 => any::<bool>().prop_map(|more| Gap::Longest { more }),
        1 => (1_u64..120).prop_map(|time| Gap::By(Duration::from_secs(time))),
        1 => (1_u64..24).prop_map(|hours| Gap::By(Duration::from_secs(3600 * hours))),
    ];
    let others = prop::option::weighted(0.7, outcome());
    let rounds = prop_oneof![3 => 1_u8..9, 1 => 20_u8..28];
    (host_list(1), 0_u8..8, rounds, gap, others).prop_map(
        |(order, stagger, rounds, gap, others)| Action::Outage {
            order,
            stagger,
            rounds,
            gap,
            others,
        },
    )
}

pub(super) fn advance() -> impl Strategy<Value = Advance> {
    let side = select(&[Side::Before, Side::At, Side::At, Side::After]);
    prop_oneof![
        4 => Just(Advance::Not),
        1 => (1_u64..10_000).prop_map(|time| Advance::By(Duration::from_millis(time))),
        1 => (1_u64..8_000).prop_map(|time| Advance::By(Duration::from_secs(time))),
        1 => (1_u64..120).prop_map(|hours| Advance::By(Duration::from_secs(3600 * hours))),
        6 => (any::<u8>(), side).prop_map(|(pick, side)| Advance::Near { pick, side }),
    ]
}

pub(super) fn asked() -> impl Strategy<Value = Asked> {
    let family = select(&Family::ALL);
    (0..HOSTS.len(), family).prop_map(|(host, family)| Asked { host, family })
}

pub(super) fn outcome() -> impl Strategy<Value = Outcome> {
    let failure = select(&[
        ServFail,
        Timeout,
        Truncated,
        Bogus,
        BrokenChain,
        TooManyAddresses,
        Other,
    ]);
    let denial = || prop::option::of(ttl());
    prop_oneof![
        10 => (any::<u8>(), ttl(), prop::bool::weighted(0.1))
            .prop_map(|(mask, ttl, mapped)| Outcome::Answer { mask, ttl, mapped }),
        2 => (0_u32..6, ttl())
            .prop_map(|(bit, ttl)| Outcome::Answer { mask: 1 << bit, ttl, mapped: false }),
        1 => ttl().prop_map(|ttl| Outcome::Answer { mask: 0, ttl, mapped: false }),
        3 => denial().prop_map(|ttl| Outcome::Error(NoData, ttl)),
        3 => denial().prop_map(|ttl| Outcome::Error(NxDomain, ttl)),
        5 => (failure, denial()).prop_map(|(kind, ttl)| Outcome::Error(kind, ttl)),
    ]
}

pub(super) fn ttl() -> impl Strategy<Value = Duration> {
    select(&[0, 1, 10, 60, 60, 60, 1800, 3600, 3600, 7200, 0xffff_ffff])
        .prop_map(Duration::from_secs)
}

/// Generates outcomes for distinct questions.
///
/// All denials are about one host. With denials about two hosts, the order of the outcomes would matter: if the hosts
/// are the evidence for each other's denials, only the first denial is believed. All denials have the same TTL. With
/// different TTLs, the order would not matter either, because a denial's TTL applies only to its own question.
pub(super) fn batch() -> impl Strategy<Value = Vec<(Asked, Outcome)>> {
    let all: Vec<_> = (0..HOSTS.len())
        .flat_map(|host| Family::ALL.map(|family| Asked { host, family }))
        .collect();
    let asked = subsequence(all, 2..=2 * HOSTS.len()).prop_shuffle();
    let outcomes = prop::collection::vec(outcome(), 2 * HOSTS.len());
    (asked, outcomes, 0..HOSTS.len(), ttl()).prop_map(|(asked, outcomes, denier, denial_ttl)| {
        let one_denier = |asked: &Asked, outcome| match outcome {
            Outcome::Error(kind @ (NxDomain | NoData), _) if asked.host == denier => {
                Outcome::Error(kind, Some(denial_ttl))
            }
            Outcome::Answer { mask, .. } if mask & 0x3f == 0 && asked.host == denier => {
                Outcome::Error(NoData, Some(denial_ttl))
            }
            Outcome::Error(NxDomain | NoData, _) => Outcome::Error(ServFail, None),
            Outcome::Answer { mask, .. } if mask & 0x3f == 0 => Outcome::Error(ServFail, None),
            other => other,
        };
        let of = |(asked, outcome)| (asked, one_denier(&asked, outcome));
        asked.into_iter().zip(outcomes).map(of).collect()
    })
}

// Restrictions of a schedule, for comparisons that are not valid for every schedule.

impl Step {
    pub(super) fn keep_families_apart(&mut self) {
        match &mut self.action {
            Action::Ask(_, outcome) => outcome.keep_families_apart(),
            Action::Round(outcomes) => {
                for outcome in outcomes {
                    outcome.keep_families_apart();
                }
            }
            Action::Outage { others, .. } => {
                if let Some(outcome) = others {
                    outcome.keep_families_apart();
                }
            }
            Action::Wait | Action::Expire | Action::Replace(_) | Action::Restart { .. } => {}
        }
    }

    pub(super) fn keep_rules(&mut self) {
        if let Action::Restart { rules, .. } = &mut self.action {
            *rules = None;
        }
    }
}

impl Outcome {
    /// Removes the address that can be in the answers to both questions. Whether that address lingers depends on which
    /// answer omits it last.
    pub(super) fn keep_families_apart(&mut self) {
        if let Self::Answer { mapped, .. } = self {
            *mapped = false;
        }
    }
}
