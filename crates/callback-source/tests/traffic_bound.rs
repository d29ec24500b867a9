//! However the requests and the answers fall, DNS is asked at most once per floor and question.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use callback_source::{AllowList, Answer, HostName, Question, ResolveError, ResolveErrorKind};
use proptest::prelude::*;
use tokio::time::{Instant, sleep};

/// What the resolver does with a question.
#[derive(Clone, Debug)]
struct Behaviour {
    takes: Duration,
    outcome: Result<u64, ResolveErrorKind>,
}

#[derive(Clone, Debug)]
enum Step {
    Wait(Duration),
    Strangers(usize),
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
    let takes = prop_oneof![Just(0u64), 1..900u64, 900..12_000u64].prop_map(Duration::from_millis);
    (takes, outcome).prop_map(|(takes, outcome)| Behaviour { takes, outcome })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..30_000u64).prop_map(|ms| Step::Wait(Duration::from_millis(ms))),
        3 => (1..20usize).prop_map(Step::Strangers),
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
        let Behaviour { takes, outcome } = behaviours[count % behaviours.len()].clone();
        async move {
            sleep(takes).await;
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
    let stranger: IpAddr = "20.0.9.9".parse().unwrap();
    for step in steps {
        match step {
            Step::Wait(time) => sleep(time).await,
            Step::Replace(count) => list.replace_hosts(hosts(count)),
            Step::Strangers(count) => {
                let asking = (0..count).map(|_| {
                    let list = list.clone();
                    tokio::spawn(async move { list.settled_verdict(stranger).await })
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_question_is_asked_more_than_once_per_floor(
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
