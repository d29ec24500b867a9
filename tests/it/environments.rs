//! Tests with servers of another environment, which are watched, named in the log, and never admitted.

use std::{convert::Infallible, net::IpAddr, time::Duration};

use callback_source::{
    AllowList, Family, HostName, Rejection, RejectionKind, ResolveErrorKind,
    verify::{SocketAddrPeer, VerifySourceLayer, tag_headers},
    vipps::Environment,
};
use callback_source_testkit::{Outcome, ScriptedResolver};
use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use integration_tests::{log::Log, merchant::host_name, within};
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt, service_fn};

use crate::common::{HOST, ONE, OTHER, TWO, UNLISTED, assert_rejected, fail, from, kind};

const TEST_HOST: &str = "callback-mt-1.vipps.no";
const TEST_SERVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(20, 9, 0, 1));
const EXPLANATION: &str =
    "20.9.0.1 is callback-mt-1.vipps.no, a test server; this list is production";

/// Creates a resolver for both environments. Each host has a different address.
fn dns() -> ScriptedResolver {
    let resolver = ScriptedResolver::default();
    for (number, host) in Environment::Production.hosts().enumerate() {
        resolver.set(host.as_str(), 3600, &[&format!("20.0.0.{}", number + 1)]);
    }
    resolver.set(TEST_HOST, 3600, &["20.9.0.1"]);
    resolver.set("callback-mt-2.vipps.no", 3600, &["20.9.0.2"]);
    resolver
}

async fn production(resolver: &ScriptedResolver) -> AllowList {
    let list = AllowList::builder()
        .environment(Environment::Production)
        .spawn(resolver.clone());
    within(list.ready()).await;
    sleep(Duration::from_secs(10)).await;
    list
}

/// Returns the response of the layer to a request.
async fn call(list: &AllowList, peer: IpAddr) -> (StatusCode, Option<Rejection>) {
    let merchant = service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new("")));
    let service = VerifySourceLayer::rejecting(list.clone(), SocketAddrPeer).layer(merchant);
    let response = within(service.oneshot(from(peer)))
        .await
        .unwrap_or_default();
    (
        response.status(),
        response.extensions().get::<Rejection>().cloned(),
    )
}

fn asked(resolver: &ScriptedResolver, hosts: impl Iterator<Item = HostName>) -> usize {
    let asked = |host: HostName| {
        let families = Family::ALL.into_iter();
        families
            .map(|family| resolver.asked_at(host.as_str(), family).len())
            .sum::<usize>()
    };
    hosts.map(asked).sum()
}

#[tokio::test(start_paused = true)]
async fn a_test_server_is_refused_by_a_production_list_with_a_reason_that_names_it() {
    let log = Log::capture();
    let list = production(&dns()).await;
    let (status, rejection) = call(&list, TEST_SERVER).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let rejection = rejection.expect("it was refused");
    // The answer of the watched host arrived while the request waited for the lookups of the admitted hosts.
    assert_eq!(rejection.kind(), RejectionKind::WrongEnvironment);
    assert_eq!(rejection.explanation().as_deref(), Some(EXPLANATION));
    assert_eq!(rejection.watched_host(), Some(&host_name(TEST_HOST)));
    assert_eq!(rejection.to_string(), "wrong-environment");
    assert!(!rejection.body_text().contains("20.9"));
    let lines = log.lines(
        "WARN",
        &["callback refused", "wrong-environment", EXPLANATION],
    );
    assert_eq!(lines.len(), 1, "{lines:?}");
    let lines = log.lines("WARN", &[EXPLANATION]);
    assert_eq!(lines.len(), 1, "one line per refusal: {lines:?}");

    // An upstream that only checks whether the tag `x-callback-host` is present must not find it.
    let verdict = list.verdict(TEST_SERVER);
    let tags: Vec<_> = tag_headers(&verdict).collect();
    let tags: Vec<_> = tags
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .collect();
    let expected: [(_, &[u8]); 2] = [
        ("x-callback-source", b"reject"),
        ("x-callback-reason", b"wrong-environment"),
    ];
    assert_eq!(tags, expected);
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_of_a_watched_host_delays_no_refusal_and_names_the_server_afterwards() {
    let log = Log::capture();
    let resolver = dns();
    let late = Outcome::Answer(vec![TEST_SERVER], Duration::from_secs(3600));
    let late = Outcome::After(Duration::from_secs(3), Box::new(late));
    resolver.set_outcome(TEST_HOST, Family::V4, late);
    let list = production(&resolver).await;

    let start = Instant::now();
    let (status, rejection) = call(&list, TEST_SERVER).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(
        rejection.map(|rejection| rejection.kind()),
        Some(RejectionKind::NotListed)
    );
    assert!(log.lines("WARN", &[EXPLANATION]).is_empty());

    sleep(Duration::from_secs(4)).await;
    let lines = log.lines("WARN", &[EXPLANATION]);
    assert_eq!(lines.len(), 1, "one request is enough: {lines:?}");
    assert_rejected(&list, TEST_SERVER, RejectionKind::WrongEnvironment);
    assert!(log.lines("ERROR", &[]).is_empty());
}

#[tokio::test(start_paused = true)]
async fn watched_hosts_are_asked_only_when_an_unlisted_peer_calls() {
    let resolver = dns();
    let list = production(&resolver).await;
    for _ in 0..10 {
        assert_eq!(call(&list, [20, 0, 0, 1].into()).await.0, StatusCode::OK);
        sleep(Duration::from_secs(100)).await;
    }
    let watched = || asked(&resolver, Environment::Test.hosts());
    assert_eq!(watched(), 0);
    let _ = call(&list, UNLISTED).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(watched(), 4);
    sleep(Duration::from_secs(2 * 3600)).await;
    assert_eq!(watched(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_flood_asks_a_watched_host_no_more_often_than_any_and_changes_no_other_question() {
    let flood = async |watch: &[&str]| {
        let resolver = ScriptedResolver::default();
        resolver.set(HOST, 60, &["127.0.1.1"]);
        resolver.set_outcome(OTHER, Family::V4, Outcome::Pending);
        let failed = Outcome::Failure(ResolveErrorKind::ServFail);
        resolver.set_outcome(OTHER, Family::V6, failed);
        let list = AllowList::builder()
            .host(host_name(HOST))
            .watch(watch.iter().copied().map(host_name))
            .insecure_allow_special_addresses()
            .spawn(resolver.clone());
        within(list.ready()).await;
        let start = Instant::now();
        for at in 0..3_000_u16 {
            let [high, low] = at.to_be_bytes();
            let peer = [127, 9, high, low].into();
            let verdict = within(list.verdict_after_refresh(peer)).await;
            assert_eq!(kind(&verdict), Some(RejectionKind::NotListed));
            sleep(Duration::from_millis(100)).await;
        }
        let since = |host, family| {
            let asked = resolver.asked_at(host, family).into_iter();
            asked.map(|at| at - start).collect::<Vec<_>>()
        };
        [
            since(HOST, Family::V4),
            since(HOST, Family::V6),
            since(OTHER, Family::V4),
            since(OTHER, Family::V6),
        ]
    };
    let [a, aaaa, watched_a, watched_aaaa] = flood(&[OTHER]).await;
    let [a_alone, aaaa_alone, none, _] = flood(&[]).await;
    assert_eq!((a, aaaa), (a_alone, aaaa_alone));
    assert!(none.is_empty());
    for asked in [watched_a, watched_aaaa] {
        // The flood lasts at least 300 s, and the longest pause of the back-off is a minute.
        assert!((5..20).contains(&asked.len()), "{asked:?}");
        let gaps = asked.windows(2).map(|pair| pair[1] - pair[0]);
        assert!(gaps.min() >= Some(Duration::from_secs(5)), "{asked:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_watched_lookup_that_hangs_keeps_no_request_and_no_permit() {
    let resolver = ScriptedResolver::default();
    resolver.set(HOST, 3600, &["127.0.1.1"]);
    resolver.set_outcome(OTHER, Family::V4, Outcome::Pending);
    let list = AllowList::builder()
        .host(host_name(HOST))
        .watch([host_name(OTHER)])
        .insecure_allow_special_addresses()
        .spawn(resolver.clone());
    within(list.ready()).await;
    // The admitted hosts were looked up just before, so the request does not wait.
    assert!(
        list.verdict_after_refresh(UNLISTED)
            .now_or_never()
            .is_some()
    );
    sleep(Duration::from_millis(10)).await;
    assert_eq!(resolver.asked_at(OTHER, Family::V4).len(), 1);
    assert!(
        list.verdict_after_refresh(UNLISTED)
            .now_or_never()
            .is_some()
    );
}

#[tokio::test(start_paused = true)]
async fn a_watched_host_makes_no_list_ready() {
    let resolver = ScriptedResolver::default();
    resolver.set(OTHER, 3600, &["127.0.1.2"]);
    fail(&resolver, HOST, ResolveErrorKind::ServFail);
    let list = AllowList::builder()
        .host(host_name(HOST))
        .watch([host_name(OTHER)])
        .insecure_allow_special_addresses()
        .spawn(resolver);
    within(list.attempted()).await;
    within(list.watched_attempted()).await;
    assert!(!list.is_ready());
    assert_rejected(&list, TWO, RejectionKind::Unresolved);
    assert_eq!(list.health().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn replaced_hosts_are_watched_by_their_new_environment() {
    let list = production(&dns()).await;
    list.replace_hosts(Environment::Test.hosts());
    within(list.changes().next()).await;
    assert!(list.verdict(TEST_SERVER).is_allowed());
    within(list.watched_attempted()).await;
    let verdict = list.verdict([20, 0, 0, 1].into());
    let explanation = verdict.rejection().and_then(Rejection::explanation);
    assert_eq!(
        explanation.as_deref(),
        Some("20.0.0.1 is callback-1.vipps.no, a production server; this list is test")
    );
    let both = Environment::Test
        .hosts()
        .chain(Environment::Production.hosts());
    list.replace_hosts(both);
    assert_eq!(list.snapshot().watched().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_list_with_watched_hosts_only_is_undecided() {
    let resolver = ScriptedResolver::default();
    resolver.set(HOST, 3600, &["127.0.1.1"]);
    let list = AllowList::builder()
        .watch([host_name(HOST)])
        .insecure_allow_special_addresses()
        .spawn(resolver);
    within(list.watched_attempted()).await;
    assert_rejected(&list, ONE, RejectionKind::Unresolved);
}
