//! Tests of requests, the refresher and the owner of a list in thousands of schedules.
//!
//! shuttle can switch between tasks at each access to a lock, an atomic or the published set, in an order that it draws
//! at random. It does not switch inside of tokio's `watch` and `Notify`. No timer fires while a schedule runs, so no
//! timer hides a lost wake-up. A lost wake-up appears as a deadlock.

use std::{
    convert::Infallible,
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use callback_source_interleaved::{
    AllowList, AllowListBuilder, Answer, Family, HostName, Question, Resolve, ResolveError,
    ResolveErrorKind, Verdict,
    simulation::{self, Fault},
    verify::VerifySourceLayer,
};
use http::{Extensions, HeaderMap, Request, Response};
use shuttle::{
    Config, FailurePersistence, Runner,
    future::{self, JoinHandle},
    scheduler::{PctScheduler, RandomScheduler},
};
use tower::{Layer, ServiceExt, service_fn};

/// Number of schedules per test, unless the environment variable `SCHEDULES` contains another number.
const SCHEDULES: usize = 1_000;
const ON_DEMAND_INTERVAL: Duration = Duration::from_secs(5);
const HOUR: Duration = Duration::from_secs(60 * 60);

const OLD: [u8; 4] = [20, 0, 0, 1];
const NEW: [u8; 4] = [20, 0, 0, 2];
const UNLISTED: [u8; 4] = [20, 0, 0, 9];

#[test]
fn a_server_that_dns_names_is_admitted_in_every_schedule() {
    explore(new_server);
}

#[test]
fn a_wake_up_that_is_lost_shows_as_a_deadlock() {
    assert!(finds(Fault::WakeUpLost, new_server));
}

#[test]
fn a_request_that_does_not_wait_shows_as_a_refusal() {
    assert!(finds(Fault::JudgedAtOnce, new_server));
}

/// A server is added in DNS. The new server sends three requests and an unlisted peer sends one, while a task waits for
/// the next change.
async fn new_server() {
    let dns = Dns::default();
    let (list, refresher) = dns.start(ON_DEMAND_INTERVAL).await;
    let mut changes = list.changes();
    dns.answer("a.test", NEW);
    let requests = [NEW, NEW, UNLISTED, NEW].map(|peer| (peer, request(&list, peer)));
    let changed = future::spawn(async move { changes.next().await });
    for (peer, request) in requests {
        assert_eq!(request.await.unwrap().is_allowed(), peer == NEW);
    }
    let changed = changed.await.unwrap();
    assert_eq!(changed[0].added, [IpAddr::from(NEW)]);
    drop(list);
    refresher.await.unwrap();
}

#[test]
fn a_replaced_host_is_refused_and_its_replacement_admitted_in_every_schedule() {
    explore(|| async {
        let dns = Dns::default();
        dns.answer("b.test", NEW);
        // The answer is new, so an on-demand refresh must not repeat the question yet.
        let (list, refresher) = dns.start(Duration::ZERO).await;
        let requests = [NEW, UNLISTED].map(|peer| request(&list, peer));
        let replace = future::spawn({
            let list = list.clone();
            async move {
                list.replace_hosts([host("b.test")]);
                assert!(!list.verdict(OLD.into()).is_allowed());
                assert!(list.verdict_after_refresh(NEW.into()).await.is_allowed());
            }
        });
        let [_, unlisted] = requests;
        assert!(!unlisted.await.unwrap().is_allowed());
        replace.await.unwrap();
        assert!(list.verdict(NEW.into()).is_allowed());
        drop(list);
        refresher.await.unwrap();
    });
}

#[test]
fn hosts_that_are_replaced_twice_end_as_the_last_ones_in_every_schedule() {
    explore(|| async {
        let dns = Dns::default();
        dns.answer("b.test", NEW);
        let (list, refresher) = dns.start(ON_DEMAND_INTERVAL).await;
        let replace = ["b.test", "a.test"].map(|name| {
            let list = list.clone();
            future::spawn(async move { list.replace_hosts([host(name)]) })
        });
        for replace in replace {
            replace.await.unwrap();
        }
        let peers = [OLD, NEW].map(|peer| request(&list, peer));
        let mut admitted = Vec::new();
        for peer in peers {
            admitted.push(peer.await.unwrap().is_allowed());
        }
        let last = list.snapshot().hosts().next().cloned();
        assert_eq!(admitted[0], last == Some(host("a.test")));
        assert_eq!(admitted[1], last == Some(host("b.test")));
        drop(list);
        refresher.await.unwrap();
    });
}

#[test]
fn the_refresher_ends_with_the_last_handle_in_every_schedule() {
    explore(|| async {
        let dns = Dns::default();
        let (list, refresher) = dns.start(ON_DEMAND_INTERVAL).await;
        let requests = [NEW, UNLISTED].map(|peer| request(&list, peer));
        // One request is cancelled while it waits.
        requests[0].abort();
        drop(list);
        let [_, unlisted] = requests;
        assert!(!unlisted.await.unwrap().is_allowed());
        refresher.await.unwrap();
    });
}

#[test]
fn requests_end_when_the_refresher_is_dropped_in_every_schedule() {
    explore(|| async {
        let dns = Dns::default();
        let (list, refresher) = dns.start(ON_DEMAND_INTERVAL).await;
        let requests = [NEW, UNLISTED].map(|peer| request(&list, peer));
        refresher.abort();
        for request in requests {
            assert!(!request.await.unwrap().is_allowed());
        }
        list.replace_hosts([host("b.test")]);
        let unlisted = list.verdict_after_refresh(UNLISTED.into()).await;
        assert!(!unlisted.is_allowed());
    });
}

#[test]
fn a_refusal_beside_the_answer_that_lists_its_peer_is_reported_in_every_schedule() {
    explore(|| async {
        let dns = Dns::default();
        let builder = AllowList::builder().host(host("a.test"));
        let list = builder.on_demand_wait(Duration::ZERO);
        let (list, refresher) = dns.start_list(list, ON_DEMAND_INTERVAL * 2).await;
        dns.answer("a.test", NEW);
        let mut changes = list.changes();
        let changed = future::spawn(async move { changes.next().await });
        let peer = |_: &HeaderMap, _: &Extensions| Some(IpAddr::from(NEW));
        let shop =
            service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(String::new())));
        let service = VerifySourceLayer::rejecting(list.clone(), peer).layer(shop);
        let requests = [service.clone(), service]
            .map(|service| future::spawn(service.oneshot(Request::new(()))));
        let mut refused = 0;
        for request in requests {
            refused += u64::from(request.await.unwrap().unwrap().status() == 403);
        }
        changed.await.unwrap();
        // One report can contain both refusals. The refresher reports a moment after the set is published.
        let expected = refused.min(1)..=refused;
        let reports = || list.health()[0].refused_then_listed;
        for _ in 0..100 {
            if expected.contains(&reports()) {
                break;
            }
            future::yield_now().await;
        }
        let reports = reports();
        assert!(
            expected.contains(&reports),
            "{reports} reports of {refused} refusals"
        );
        drop(list);
        refresher.await.unwrap();
    });
}

/// A resolver with the hosts `a.test` and `b.test`.
#[derive(Clone, Default)]
struct Dns {
    answers: Arc<Mutex<Vec<(HostName, IpAddr)>>>,
}

impl Dns {
    /// Starts a list of `a.test`, waits until it is ready, and advances the time until its answer has this age.
    async fn start(&self, age: Duration) -> (AllowList, JoinHandle<()>) {
        let builder = AllowList::builder().host(host("a.test"));
        self.start_list(builder, age).await
    }

    async fn start_list(
        &self,
        builder: AllowListBuilder,
        age: Duration,
    ) -> (AllowList, JoinHandle<()>) {
        self.answer("a.test", OLD);
        let (list, refresher) = builder.pair(self.clone());
        let refresher = future::spawn(refresher.run());
        list.ready().await;
        tokio::time::advance(age).await;
        (list, refresher)
    }

    fn answer(&self, name: &str, address: [u8; 4]) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.push((host(name), address.into()));
    }
}

impl Resolve for Dns {
    async fn resolve(&self, question: Question) -> Result<Answer, ResolveError> {
        future::yield_now().await;
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let addresses = answers.iter().filter_map(|(host, address)| {
            (*host == question.host && address.is_ipv4() == (question.family == Family::V4))
                .then_some(*address)
        });
        let addresses: Vec<_> = addresses.collect();
        match addresses.is_empty() {
            true => Err(ResolveError::new(ResolveErrorKind::NoData)),
            false => Ok(Answer::new(addresses, HOUR)),
        }
    }
}

fn request(list: &AllowList, peer: [u8; 4]) -> JoinHandle<Verdict> {
    let list = list.clone();
    future::spawn(async move { list.verdict_after_refresh(peer.into()).await })
}

fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

/// Runs a scenario in many schedules, half of them from each of two schedulers.
fn explore<F: Future<Output = ()> + Send + 'static>(
    scenario: impl Fn() -> F + Send + Sync + 'static,
) {
    // The clock of this runtime is paused. Its timers never fire, since the runtime itself does not run.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    // The runtime is never dropped. Its drop would wake the tasks of a failed schedule, which no longer exist.
    let _guard = Box::leak(Box::new(runtime)).enter();
    // Without this call, the list would check every five seconds whether the machine has slept.
    simulation::set_wall_clock(tokio::time::Instant::now(), HOUR);
    let schedules = std::env::var("SCHEDULES").map_or(SCHEDULES, |text| text.parse().unwrap());
    let scenario = Arc::new(move || future::block_on(scenario()));
    let run = Arc::clone(&scenario);
    Runner::new(RandomScheduler::new(schedules / 2), config()).run(move || run());
    // This scheduler lets one task run for a long time while another task does not run.
    Runner::new(PctScheduler::new(3, schedules / 2), config()).run(move || scenario());
}

fn config() -> Config {
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    config.silence_warnings = true;
    config.failure_persistence = FailurePersistence::None;
    config
}

/// Returns whether a scenario fails in at least one schedule when this fault is planted.
fn finds<F: Future<Output = ()> + Send + 'static>(
    fault: Fault,
    scenario: impl Fn() -> F + Send + Sync + 'static,
) -> bool {
    simulation::plant(Some(fault));
    catch_unwind(AssertUnwindSafe(|| explore(scenario))).is_err()
}
