//! Tests with peers that were refused and then listed. Such a refusal may have hit a genuine callback, so the list
//! reports it.

use std::{convert::Infallible, net::IpAddr, time::Duration};

use callback_source::{
    AllowList, ResolveErrorKind,
    verify::{SocketAddrPeer, VerifySourceLayer},
};
use callback_source_testkit::ScriptedResolver;
use http::{Request, Response, StatusCode};
use integration_tests::{log::Log, merchant::tiny_list, within};
use tokio::time::sleep;
use tower::{Layer, ServiceExt, service_fn};

use crate::common::{HOST, ONE, TWO, fail, from};

const EVENT: &str = "this address was refused, and is now listed";

async fn known() -> (ScriptedResolver, AllowList) {
    let resolver = ScriptedResolver::default();
    resolver.set(HOST, 60, &["127.0.1.1"]);
    let list = tiny_list(&[HOST]).spawn(resolver.clone());
    within(list.ready()).await;
    (resolver, list)
}

async fn call(list: &AllowList, peer: IpAddr) -> StatusCode {
    let merchant = service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new("")));
    let service = VerifySourceLayer::rejecting(list.clone(), SocketAddrPeer).layer(merchant);
    let response = within(service.oneshot(from(peer))).await;
    response.unwrap_or_default().status()
}

fn then_listed(list: &AllowList) -> u64 {
    list.health()
        .iter()
        .map(|host| host.refused_then_listed)
        .sum()
}

#[tokio::test(start_paused = true)]
async fn a_refused_server_that_is_listed_later_is_an_error_in_the_log_and_in_health() {
    let log = Log::capture();
    let (resolver, list) = known().await;
    for _ in 0..3 {
        assert_eq!(call(&list, TWO).await, StatusCode::FORBIDDEN);
    }
    assert_eq!(
        call(&list, [127, 0, 1, 9].into()).await,
        StatusCode::FORBIDDEN
    );
    resolver.set(HOST, 60, &["127.0.1.1", "127.0.1.2"]);
    sleep(Duration::from_secs(62)).await;
    assert_eq!(call(&list, TWO).await, StatusCode::OK);
    let lines = log.lines("ERROR", &[EVENT]);
    assert_eq!(lines.len(), 1, "{lines:?}");
    for part in [
        "host=callback-1.example",
        "address=127.0.1.2",
        "times=3",
        "first_ago=6",
        "last_ago=6",
    ] {
        assert!(lines[0].contains(part), "{part}: {lines:?}");
    }
    assert_eq!(then_listed(&list), 1);

    // The peer's address leaves the answer and appears again, but the peer is reported only once.
    resolver.set(HOST, 60, &["127.0.1.1"]);
    sleep(Duration::from_secs(2 * 3600)).await;
    resolver.set(HOST, 60, &["127.0.1.1", "127.0.1.2"]);
    sleep(Duration::from_secs(62)).await;
    assert_eq!(then_listed(&list), 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_waits_for_its_answer_was_not_refused() {
    let log = Log::capture();
    let (resolver, list) = known().await;
    sleep(Duration::from_secs(6)).await;
    resolver.set(HOST, 60, &["127.0.1.1", "127.0.1.2"]);
    assert_eq!(call(&list, TWO).await, StatusCode::OK);
    assert!(log.lines("ERROR", &[]).is_empty());
    assert_eq!(then_listed(&list), 0);
}

#[tokio::test(start_paused = true)]
async fn an_undecided_verdict_is_not_a_refusal() {
    let log = Log::capture();
    let resolver = ScriptedResolver::default();
    fail(&resolver, HOST, ResolveErrorKind::ServFail);
    let list = tiny_list(&[HOST]).spawn(resolver.clone());
    within(list.attempted()).await;
    assert_eq!(call(&list, ONE).await, StatusCode::SERVICE_UNAVAILABLE);
    resolver.set(HOST, 60, &["127.0.1.1"]);
    within(list.ready()).await;
    assert_eq!(call(&list, ONE).await, StatusCode::OK);
    assert!(log.lines("ERROR", &[]).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_forgotten_after_the_linger_window() {
    let (resolver, list) = known().await;
    assert_eq!(call(&list, TWO).await, StatusCode::FORBIDDEN);
    sleep(Duration::from_secs(3600)).await;
    resolver.set(HOST, 60, &["127.0.1.1", "127.0.1.2"]);
    sleep(Duration::from_secs(62)).await;
    assert_eq!(call(&list, TWO).await, StatusCode::OK);
    assert_eq!(then_listed(&list), 0);
}

#[tokio::test(start_paused = true)]
async fn a_rejection_by_a_tagging_layer_is_remembered_too() {
    let (resolver, list) = known().await;
    let merchant = service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new("")));
    let service = VerifySourceLayer::tagging(list.clone(), SocketAddrPeer).layer(merchant);
    within(service.oneshot(from(TWO))).await.unwrap_or_default();
    resolver.set(HOST, 60, &["127.0.1.2"]);
    sleep(Duration::from_secs(62)).await;
    assert_eq!(then_listed(&list), 1);
}
