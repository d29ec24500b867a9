//! Tests of the bounds of DNS traffic, for any order of requests and answers. A question goes out at most once per
//! refresh interval floor, and for unlisted peers at most once per on-demand interval. The request of a new server
//! triggers a lookup as soon as these bounds allow.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use callback_source::{AllowList, Answer, HostName, Question, ResolveError, ResolveErrorKind};
use proptest::prelude::*;
use tokio::time::{Instant, sleep};

/// The behaviour of the resolver for one lookup.
#[derive(Clone, Debug)]
struct Behaviour {
    delay: Duration,
    outcome: Result<u64, ResolveErrorKind>,
}

#[derive(Clone, Debug)]
enum Step {
    Wait(Duration),
    UnlistedPeers(usize),
    Replace(usize),
}

fn behaviour() -> impl Strategy<Value = Behaviour> {
    let kinds = [
        ResolveErrorKind::NxDomain,
        ResolveErrorKind::NoData,
        ResolveErrorKind::ServFail,
        ResolveErrorKind::Timeout,
    ];
    let outcome = prop_oneof![
        3 => prop_oneof![Just(0u64), 1..10u64, Just(300), Just(u64::from(u32::MAX))].prop_map(Ok),
        1 => proptest::sample::select(kinds.to_vec()).prop_map(Err),
    ];
    let delay = prop_oneof![Just(0u64), 1..900u64, 900..12_000u64].prop_map(Duration::from_millis);
    (delay, outcome).prop_map(|(delay, outcome)| Behaviour { delay, outcome })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..30_000u64).prop_map(|ms| Step::Wait(Duration::from_millis(ms))),
        3 => (1..20usize).prop_map(Step::UnlistedPeers),
        1 => (1..4usize).prop_map(Step::Replace),
    ]
}

fn hosts(count: usize) -> Vec<HostName> {
    (0..count)
        .map(|number| format!("h{number}.test").parse().unwrap())
        .collect()
}

type Calls = Arc<Mutex<HashMap<Question, Vec<Instant>>>>;

async fn calls(floor: Duration, behaviours: Vec<Behaviour>, steps: Vec<Step>) -> Calls {
    let calls = Calls::default();
    let log = Arc::clone(&calls);
    let resolver = move |question: Question| {
        let mut log = log.lock().unwrap();
        let count: usize = log.values().map(Vec::len).sum();
        log.entry(question).or_default().push(Instant::now());
        let Behaviour { delay, outcome } = behaviours[count % behaviours.len()].clone();
        async move {
            sleep(delay).await;
            match outcome {
                Ok(ttl) => Ok(Answer::new(
                    ["20.0.0.1".parse().unwrap()],
                    Duration::from_secs(ttl),
                )),
                Err(kind) => Err(ResolveError::new(kind)),
            }
        }
    };
    let builder = AllowList::builder().hosts(hosts(2));
    let builder = builder
        .ttl_bounds(floor, Duration::from_secs(3600))
        .unwrap();
    let list = builder.spawn(resolver);
    let unlisted: IpAddr = "20.0.9.9".parse().unwrap();
    for step in steps {
        match step {
            Step::Wait(time) => sleep(time).await,
            Step::Replace(count) => list.replace_hosts(hosts(count)),
            Step::UnlistedPeers(count) => {
                let asking = (0..count).map(|_| {
                    let list = list.clone();
                    tokio::spawn(async move { list.verdict_after_refresh(unlisted).await })
                });
                let asking: Vec<_> = asking.collect();
                for task in asking {
                    assert!(!task.await.unwrap().is_allowed());
                }
            }
        }
    }
    calls
}

/// A flood of unlisted peers, a zone that rotates, and calls of the zone's newest server.
#[derive(Clone, Debug)]
struct Flood {
    ttl: u64,
    /// The number of peers that call, and the pause between two calls of a peer.
    peers: u8,
    pause: Duration,
    /// The time between a question and its answer.
    delay: Duration,
    /// For each rotation, the pause before the rotation, and the pause between the rotation and the call of the new
    /// server.
    rotations: Vec<(Duration, Duration)>,
}

fn flood() -> impl Strategy<Value = Flood> {
    let nanos = |most_ms: u64| (0..most_ms * 1_000_000).prop_map(Duration::from_nanos);
    let delay = prop_oneof![Just(Duration::ZERO), nanos(300), nanos(4_000)];
    let rotation = (nanos(70_000), prop_oneof![nanos(6_500), nanos(70_000)]);
    (
        prop_oneof![5..20u64, 20..120u64],
        0..4u8,
        nanos(2_000).prop_map(|pause| pause + Duration::from_millis(20)),
        delay,
        proptest::collection::vec(rotation, 1..8),
    )
        .prop_map(|(ttl, peers, pause, delay, rotations)| Flood {
            ttl,
            peers,
            pause,
            delay,
            rotations,
        })
}

/// Returns the address of the only server after this number of rotations.
fn server(rotations: u8) -> IpAddr {
    [20, 0, 0, rotations].into()
}

/// The call of a new server and its result.
#[derive(Debug)]
struct Call {
    rotated_at: Instant,
    at: Instant,
    took: Duration,
    is_allowed: bool,
    /// The start of the last lookup before the call.
    asked_before: Instant,
}

async fn calls_in_a_flood(flood: Flood) -> (Vec<Instant>, Vec<Call>) {
    let rotations = Arc::new(Mutex::new(0));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (current, log) = (Arc::clone(&rotations), Arc::clone(&asked));
    let Flood { ttl, delay, .. } = flood;
    let resolver = move |question: Question| {
        let v4 = question.family == callback_source::Family::V4;
        if v4 {
            log.lock().unwrap().push(Instant::now());
        }
        let addresses = v4.then(|| server(*current.lock().unwrap()));
        async move {
            sleep(delay).await;
            Ok(Answer::new(addresses, Duration::from_secs(ttl)))
        }
    };
    let list = AllowList::builder().hosts(hosts(1)).spawn(resolver);
    list.ready().await;
    for peer in 0..flood.peers {
        let list = list.clone();
        tokio::spawn(async move {
            // Each peer starts at a different time.
            sleep(flood.pause.mul_f64(f64::from(peer) / 4.3)).await;
            loop {
                let list = list.clone();
                let peer = [20, 0, 9, peer].into();
                tokio::spawn(async move { list.verdict_after_refresh(peer).await });
                sleep(flood.pause).await;
            }
        });
    }
    let mut calls = Vec::new();
    for (rotation, (before, until_call)) in flood.rotations.into_iter().enumerate() {
        sleep(before).await;
        let newest = rotation as u8 + 1;
        *rotations.lock().unwrap() = newest;
        let rotated_at = Instant::now();
        sleep(until_call).await;
        let asked_before = *asked.lock().unwrap().last().unwrap();
        let at = Instant::now();
        let verdict = list.verdict_after_refresh(server(newest)).await;
        calls.push(Call {
            rotated_at,
            at,
            took: at.elapsed(),
            is_allowed: verdict.is_allowed(),
            asked_before,
        });
    }
    let asked = asked.lock().unwrap().clone();
    (asked, calls)
}

const INTERVAL: Duration = Duration::from_secs(5);
const WAIT: Duration = Duration::from_secs(1);
/// The tolerance for timers, which round up the sleeps of the test and of the refresher.
const TICK: Duration = Duration::from_millis(3);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn in_a_flood_a_new_server_is_admitted_as_soon_as_its_question_may_go_out(flood in flood()) {
        let delay = flood.delay;
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        let (asked, calls) = runtime.block_on(calls_in_a_flood(flood));
        for pair in asked.windows(2) {
            prop_assert!(INTERVAL <= pair[1] - pair[0], "{:?}", pair[1] - pair[0]);
        }
        for call in calls {
            prop_assert!(call.took <= WAIT + TICK, "{call:?}");
            let asked_at = match call.rotated_at <= call.asked_before {
                true => call.asked_before,
                false => call.at.max(call.asked_before + INTERVAL).max(call.asked_before + delay),
            };
            if asked_at + delay + TICK < call.at + WAIT {
                prop_assert!(call.is_allowed, "{call:?}, {delay:?}");
            }
            // The call waits no longer than until the answer arrives.
            if call.is_allowed {
                let answered_at = asked_at + delay + TICK;
                prop_assert!(call.at + call.took <= call.at.max(answered_at), "{call:?}");
            }
        }
    }

    #[test]
    fn no_question_goes_out_more_than_once_per_interval_floor(
        floor in prop_oneof![Just(1u64), Just(5), 1..20u64].prop_map(Duration::from_secs),
        behaviours in proptest::collection::vec(behaviour(), 1..8),
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        let calls = runtime.block_on(calls(floor, behaviours, steps));
        for (question, times) in calls.lock().unwrap().iter() {
            for pair in times.windows(2) {
                prop_assert!(floor <= pair[1] - pair[0], "{question}: {:?}", pair[1] - pair[0]);
            }
        }
    }
}
