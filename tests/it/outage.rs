//! Tests of callbacks while servers change and while DNS is down.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use axum::{Router, routing::post};
use callback_source::{
    AllowList, Family, Freshness, RejectionKind, ResolveErrorKind,
    set::QuestionStatus,
    verify::{ConnectInfoPeer, VerifySourceLayer},
    vipps::Environment,
};
use callback_source_testkit::{
    Outcome, ScriptedResolver,
    dns::{DnsServer, Fault, FaultScope, RecordType, ResponseCode},
};
use http::{Request, StatusCode};
use integration_tests::{
    log::Log,
    merchant::{Merchant, host_name, tiny_list},
    until, within,
};
use tokio::time::sleep;
use tower::ServiceExt;

use crate::common::{ONE, TWO, UNLISTED, fail};

const HOST: &str = "callback-1.psp.example";
const OTHER: &str = "callback-2.psp.example";

#[tokio::test]
async fn a_rotation_admits_the_new_server_and_the_old_one_lingers() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    dns.set(HOST, 1, &[ONE]);
    let list = tiny_list(&[HOST]).spawn(dns.resolver());
    within(list.ready()).await;
    let merchant = Merchant::start(list.clone()).await?;
    assert_eq!(merchant.post(ONE, &[], b"").await?.status, 200);
    assert_eq!(merchant.post(TWO, &[], b"").await?.status, 403);

    let mut changes = list.changes();
    dns.set(HOST, 1, &[TWO]);
    let change = within(changes.next()).await.remove(0);

    assert_eq!((change.added, change.removed), (vec![TWO], vec![]));
    let reply = merchant.post(TWO, &[], b"").await?;
    assert_eq!(reply.header("x-freshness"), Some("fresh"));
    let reply = merchant.post(ONE, &[], b"").await?;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("x-freshness"), Some("lingering"));
    Ok(())
}

#[tokio::test]
async fn a_server_that_was_withdrawn_is_refused_after_the_linger_window() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    dns.set(HOST, 1, &[ONE]);
    let list = tiny_list(&[HOST])
        .linger(Duration::from_secs(1))
        .spawn(dns.resolver());
    within(list.ready()).await;
    let merchant = Merchant::start(list.clone()).await?;

    let mut changes = list.changes();
    dns.set(HOST, 1, &[TWO]);
    assert_eq!(within(changes.next()).await[0].added, [TWO]);
    let change = within(changes.next()).await.remove(0);

    assert_eq!((change.added, change.removed), (vec![], vec![ONE]));
    assert_eq!(merchant.post(ONE, &[], b"").await?.status, 403);
    assert_eq!(merchant.post(TWO, &[], b"").await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn a_server_that_comes_back_while_it_lingers_is_never_refused() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    dns.set(HOST, 1, &[ONE]);
    let list = tiny_list(&[HOST]).spawn(dns.resolver());
    within(list.ready()).await;
    let freshness = || {
        list.verdict(ONE)
            .allowed()
            .map(|allowed| allowed.freshness())
    };

    dns.set(HOST, 1, &[TWO]);
    until(|| freshness() == Some(Freshness::Lingering)).await;
    dns.set(HOST, 1, &[ONE]);
    until(|| freshness() == Some(Freshness::Fresh)).await;
    assert!(list.verdict(TWO).is_allowed());
    Ok(())
}

#[tokio::test]
async fn a_host_that_does_not_exist_does_not_hurt_the_others() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    dns.set(HOST, 60, &[ONE]);
    let list = tiny_list(&[
        "callback-mt-3.psp.example",
        HOST,
        "callback-mt-4.psp.example",
    ])
    .spawn(dns.resolver());
    within(list.ready()).await;
    let merchant = Merchant::start(list.clone()).await?;

    assert_eq!(merchant.post(ONE, &[], b"").await?.status, 200);
    assert_eq!(merchant.post(UNLISTED, &[], b"").await?.status, 403);
    let health = list.health();
    assert_eq!(health[0].families[0].state, QuestionStatus::Denied);
    assert_eq!(health[1].families[0].state, QuestionStatus::Answered);
    Ok(())
}

#[tokio::test]
async fn while_one_host_fails_the_others_are_admitted_and_unlisted_peers_get_503() -> io::Result<()>
{
    let dns = DnsServer::start().await?;
    dns.set(HOST, 60, &[ONE]);
    dns.set_fault(OTHER, Fault::Rcode(ResponseCode::ServFail));
    let list = tiny_list(&[HOST, OTHER]).spawn(dns.resolver());
    within(list.attempted()).await;
    let merchant = Merchant::start(list).await?;

    assert_eq!(merchant.post(ONE, &[], b"").await?.status, 200);
    // The peer may be the server whose address has not been resolved.
    let reply = merchant.post(UNLISTED, &[], b"").await?;
    assert_eq!(reply.status, 503);
    assert_eq!(reply.header("retry-after"), Some("5"));
    Ok(())
}

#[tokio::test]
async fn a_start_without_dns_recovers_without_a_restart() -> io::Result<()> {
    let mut dns = DnsServer::start().await?;
    dns.set(HOST, 60, &[ONE]);
    dns.pause().await;
    let list = tiny_list(&[HOST]).spawn(dns.resolver());
    let merchant = Merchant::start(list.clone()).await?;

    for peer in [ONE, UNLISTED] {
        let reply = merchant.post(peer, &[], b"{}").await?;
        assert_eq!(reply.status, 503, "{peer}");
        assert_eq!(reply.header("retry-after"), Some("5"));
    }
    within(list.attempted()).await;
    assert!(!list.is_ready());
    assert_eq!(merchant.handled(), 0);

    dns.resume().await?;
    within(list.ready()).await;
    assert_eq!(merchant.post(ONE, &[], b"").await?.status, 200);
    assert_eq!(merchant.post(UNLISTED, &[], b"").await?.status, 403);
    Ok(())
}

#[tokio::test]
async fn an_outage_refuses_no_server_that_was_known() -> io::Result<()> {
    let mut dns = DnsServer::start().await?;
    dns.set(HOST, 1, &[ONE]);
    let list = tiny_list(&[HOST]).spawn(dns.resolver());
    within(list.ready()).await;
    let merchant = Merchant::start(list.clone()).await?;

    dns.pause().await;
    until(|| list.health()[0].families[0].last_error.is_some()).await;

    let reply = merchant.post(ONE, &[], b"").await?;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("x-freshness"), Some("stale"));
    assert_eq!(merchant.post(UNLISTED, &[], b"").await?.status, 403);
    let family = &list.health()[0].families[0];
    assert_eq!(family.state, QuestionStatus::Failing);
    let kind = family.last_error.as_ref().map(|error| error.kind());
    assert_eq!(kind, Some(ResolveErrorKind::Timeout));
    assert!(list.is_ready());

    dns.resume().await?;
    until(|| list.health()[0].families[0].state == QuestionStatus::Answered).await;
    let reply = merchant.post(ONE, &[], b"").await?;
    assert_eq!(reply.header("x-freshness"), Some("fresh"));
    Ok(())
}

#[tokio::test]
async fn an_outage_longer_than_the_stale_window_ends_in_503() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    dns.set(HOST, 1, &[ONE]);
    let list = tiny_list(&[HOST])
        .stale_for(Duration::from_secs(1))
        .spawn(dns.resolver());
    within(list.ready()).await;
    let merchant = Merchant::start(list.clone()).await?;

    dns.set_fault(FaultScope::Everything, Fault::Rcode(ResponseCode::ServFail));
    let mut changes = list.changes();
    assert_eq!(within(changes.next()).await[0].removed, [ONE]);

    for peer in [ONE, UNLISTED] {
        assert_eq!(merchant.post(peer, &[], b"").await?.status, 503);
    }
    assert!(!list.is_ready());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_zone_that_denies_everything_removes_no_server() {
    let resolver = ScriptedResolver::default();
    let hosts = Environment::Production.hosts().map(|host| host.to_string());
    let hosts: Vec<_> = hosts.collect();
    let peer = |at: usize| IpAddr::from([127, 10, 0, at as u8]);
    for (at, host) in hosts.iter().enumerate() {
        resolver.set(host, 60, &[&peer(at).to_string()]);
    }
    let list = AllowList::builder()
        .environment(Environment::Production)
        .insecure_allow_special_addresses()
        .spawn(resolver.clone());
    within(list.ready()).await;

    for host in &hosts {
        fail(&resolver, host, ResolveErrorKind::NxDomain);
        resolver.set_outcome(
            host,
            Family::V6,
            Outcome::Failure(ResolveErrorKind::NxDomain),
        );
    }
    // This pause is longer than the linger window that would follow a believed denial.
    sleep(Duration::from_secs(3 * 60 * 60)).await;

    for (at, host) in hosts.iter().enumerate() {
        assert!(list.verdict(peer(at)).is_allowed(), "{host}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_withdrawn_is_removed_after_the_linger_window() {
    let resolver = ScriptedResolver::default();
    resolver.set(HOST, 60, &["127.0.1.1"]);
    resolver.set(OTHER, 60, &["127.0.1.2"]);
    let list = tiny_list(&[HOST, OTHER]).spawn(resolver.clone());
    within(list.ready()).await;

    fail(&resolver, HOST, ResolveErrorKind::NxDomain);
    // During this pause, the other host has two more answers. The second answer is certainly later than the denial.
    sleep(Duration::from_secs(124)).await;
    let freshness = list
        .verdict(ONE)
        .allowed()
        .map(|allowed| allowed.freshness());
    assert_eq!(freshness, Some(Freshness::Lingering));
    sleep(Duration::from_secs(60 * 60)).await;
    let kind = list
        .verdict(ONE)
        .rejection()
        .map(|rejection| rejection.kind());
    assert_eq!(kind, Some(RejectionKind::NotListed));
    assert!(list.verdict(TWO).is_allowed());
}

#[tokio::test(start_paused = true)]
async fn an_address_that_one_answer_omits_is_admitted_until_the_next_one() {
    let resolver = ScriptedResolver::default();
    resolver.set(HOST, 3600, &["127.0.1.1", "127.0.1.2"]);
    let list = AllowList::builder()
        .hosts([host_name(HOST)])
        .insecure_allow_special_addresses()
        .spawn(resolver.clone());
    within(list.ready()).await;

    resolver.set(HOST, 3600, &["127.0.1.1"]);
    for step in 0..3 * 60 * 60 * 2 {
        assert!(list.verdict(TWO).is_allowed(), "after {} s", step / 2);
        sleep(Duration::from_millis(500)).await;
        if resolver.asked_at(HOST, Family::V4).len() == 2 {
            resolver.set(HOST, 3600, &["127.0.1.1", "127.0.1.2"]);
        }
    }
    assert!(resolver.asked_at(HOST, Family::V4).len() >= 3);
}

#[tokio::test(start_paused = true)]
async fn slow_answers_within_the_time_limit_refuse_no_server() {
    let resolver = ScriptedResolver::default();
    let answer = Outcome::Answer(vec![ONE], Duration::from_secs(60));
    let slow = Outcome::After(Duration::from_secs(10), Box::new(answer));
    resolver.set_outcome(HOST, Family::V4, slow);
    let list = tiny_list(&[HOST])
        .stale_for(Duration::ZERO)
        .question_time_limit(Duration::from_secs(20))
        .spawn(resolver.clone());
    within(list.ready()).await;

    for second in 0..600 {
        assert!(list.verdict(ONE).is_allowed(), "after {second} s");
        sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_of_one_family_is_ready_without_the_other() {
    let resolver = ScriptedResolver::default();
    resolver.set(HOST, 60, &["127.0.1.1"]);
    resolver.set_outcome(HOST, Family::V6, Outcome::Pending);
    let list = tiny_list(&[HOST])
        .only_family(Family::V4)
        .spawn(resolver.clone());
    within(list.ready()).await;

    assert_eq!(resolver.asked_at(HOST, Family::V6), []);
    assert!(list.verdict(ONE).is_allowed());
    let verdict = list
        .verdict_after_refresh("2001:db8::1".parse().unwrap())
        .await;
    let kind = verdict.rejection().map(|rejection| rejection.kind());
    assert_eq!(kind, Some(RejectionKind::NotListed));
    assert_eq!(list.health()[0].families[1].state, QuestionStatus::NotAsked);
    assert_eq!(resolver.asked_at(HOST, Family::V6), []);
}

#[tokio::test]
async fn a_service_without_peer_addresses_logs_the_fix() -> io::Result<()> {
    let log = Log::capture();
    let list = AllowList::fixed([ONE]);
    let app = Router::new()
        .route("/", post(async || "handled"))
        .layer(VerifySourceLayer::rejecting(list, ConnectInfoPeer));

    let request = Request::post("/").body(axum::body::Body::empty());
    let response = app.oneshot(request.map_err(io::Error::other)?).await;

    let status = response.map(|response| response.status());
    assert_eq!(status, Ok(StatusCode::INTERNAL_SERVER_ERROR));
    let lines = log.lines("ERROR", &["into_make_service_with_connect_info"]);
    assert_eq!(lines.len(), 1, "{lines:?}");
    Ok(())
}

#[tokio::test]
async fn a_router_without_connect_info_refuses_every_request() -> io::Result<()> {
    let log = Log::capture();
    let app = Router::new()
        .fallback(async || "handled")
        .layer(VerifySourceLayer::rejecting(
            AllowList::fixed([ONE]),
            ConnectInfoPeer,
        ));
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let addr = listener.local_addr()?;
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, app).await.unwrap_or_default() });

    let client = integration_tests::http::Client::from(ONE);
    let reply = within(client.send(addr, "POST", "/", &[], b"")).await?;

    assert_eq!(reply.status, 500);
    assert!(!reply.text().contains("handled"));
    assert_eq!(log.lines("ERROR", &["ConnectInfoPeer"]).len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_refusal_is_logged_once_a_minute_and_peer() -> io::Result<()> {
    let log = Log::capture();
    let dns = DnsServer::start().await?;
    dns.set(HOST, 60, &[ONE]);
    let list = tiny_list(&[HOST]).spawn(dns.resolver());
    within(list.ready()).await;
    let merchant = Merchant::start(list).await?;

    for _ in 0..5 {
        assert_eq!(merchant.post(UNLISTED, &[], b"").await?.status, 403);
    }
    let lines = log.lines("WARN", &["callback refused", "127.0.66.6", HOST]);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("not-listed"));
    Ok(())
}

#[tokio::test]
async fn an_unlisted_peer_triggers_no_reverse_lookup() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    dns.set(HOST, 60, &[ONE]);
    let list = tiny_list(&[HOST])
        .on_demand_interval(Duration::from_millis(1))
        .spawn(dns.resolver());
    within(list.ready()).await;
    let verdict = within(list.verdict_after_refresh(UNLISTED)).await;

    let kind = verdict.rejection().map(|rejection| rejection.kind());
    assert_eq!(kind, Some(RejectionKind::NotListed));
    let foreign = |asked: &&callback_source_testkit::dns::Asked| {
        asked.name != HOST || asked.record_type == RecordType::PTR
    };
    assert_eq!(dns.questions().iter().filter(foreign).count(), 0);
    Ok(())
}
