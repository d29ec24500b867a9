//! Tests of the on-demand refresh that an unlisted peer triggers, and of its bounds.

use std::{convert::Infallible, net::IpAddr, time::Duration};

use callback_source::{
    AllowList, AllowListBuilder, Family, RejectionKind, ResolveErrorKind, Verdict,
    verify::{SocketAddrPeer, VerifySourceLayer},
    vipps::Environment,
};
use callback_source_testkit::{Outcome, ScriptedResolver};
use futures_util::{FutureExt, future::join_all};
use http::{Request, Response, StatusCode};
use integration_tests::{
    merchant::{host_name, tiny_list},
    until, within,
};
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt, service_fn};

use crate::common::{HOST, ONE, OTHER, TWO, UNLISTED, fail, from, kind};

#[tokio::test(start_paused = true)]
async fn a_server_that_is_new_since_the_last_refresh_is_admitted() {
    let (resolver, list) = known_for_an_hour().await;
    resolver.set(HOST, 3600, &["127.0.1.2"]);
    assert!(!list.verdict(TWO).is_allowed());

    assert!(within(list.verdict_after_refresh(TWO)).await.is_allowed());

    assert!(list.verdict(ONE).is_allowed(), "the old one lingers");
    assert_eq!(resolver.asked_at(HOST, Family::V4).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_new_server_is_admitted_through_the_layer_too() {
    let (resolver, list) = known_for_an_hour().await;
    let service = VerifySourceLayer::rejecting(list, SocketAddrPeer).layer(service_fn(
        async |_: Request<()>| Ok::<_, Infallible>(Response::new("handled".to_owned())),
    ));
    resolver.set_outcome(HOST, Family::V4, late(600, TWO, 3600));

    let response = within(service.clone().oneshot(from(TWO)))
        .await
        .unwrap_or_default();
    assert_eq!(response.body(), "handled");
    let response = within(service.oneshot(from(UNLISTED)))
        .await
        .unwrap_or_default();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_server_is_admitted_before_the_other_lookups_end() {
    let (resolver, list) = known_for_an_hour().await;
    resolver.set(HOST, 3600, &["127.0.1.2"]);
    resolver.set_outcome(HOST, Family::V6, Outcome::Pending);
    let start = Instant::now();
    assert!(within(list.verdict_after_refresh(TWO)).await.is_allowed());
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn an_unlisted_peer_is_refused_when_the_refresh_has_ended() {
    let (resolver, list) = known_for_an_hour().await;
    resolver.set_outcome(HOST, Family::V4, late(700, ONE, 3600));
    let start = Instant::now();
    let verdict = within(list.verdict_after_refresh(UNLISTED)).await;
    assert_eq!(kind(&verdict), Some(RejectionKind::NotListed));
    assert_eq!(start.elapsed(), Duration::from_millis(700));
    // A call immediately afterwards does not wait and triggers no refresh.
    assert!(
        list.verdict_after_refresh(UNLISTED)
            .now_or_never()
            .is_some()
    );
    assert_eq!(resolver.asked_at(HOST, Family::V4).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_unlisted_peers_triggers_one_refresh_and_1024_wait() {
    let (resolver, list) = known_for_an_hour().await;
    let before = resolver.total();
    resolver.set_outcome(HOST, Family::V4, late(500, ONE, 3600));

    let start = Instant::now();
    let flood = (0..5000).map(|at| {
        let (list, peer) = (&list, other_peer(at));
        async move {
            let verdict = list.verdict_after_refresh(peer).await;
            (kind(&verdict), start.elapsed())
        }
    });
    let verdicts = within(join_all(flood)).await;

    let refused = Some(RejectionKind::NotListed);
    assert!(verdicts.iter().all(|(kind, _)| *kind == refused));
    let at_once = verdicts.iter().filter(|(_, took)| took.is_zero()).count();
    assert_eq!(at_once, 5000 - 1024);
    let waited = Duration::from_millis(500);
    assert_eq!(
        verdicts.iter().filter(|(_, took)| *took == waited).count(),
        1024
    );
    assert_eq!(resolver.total() - before, 2, "one refresh, A and AAAA");
}

#[tokio::test(start_paused = true)]
async fn many_requests_of_one_peer_share_one_permit_to_wait() {
    let spellings = |at: u16| match at % 2 {
        0 => UNLISTED,
        _ => "::ffff:127.0.66.6".parse().expect("it is an address"),
    };
    let of_one_64 = |at: u16| [0x2001, 0xdb8, 0, 7, at, at, 0, 1].into();
    for flood in [&spellings as &dyn Fn(u16) -> IpAddr, &of_one_64] {
        let (resolver, list) = known_for_an_hour().await;
        resolver.set_outcome(HOST, Family::V4, late(200, TWO, 3600));
        let mut waiting: Vec<_> = (0..5_000)
            .map(|at| Box::pin(list.verdict_after_refresh(flood(at))))
            .collect();
        for request in &mut waiting {
            assert!(request.as_mut().now_or_never().is_none(), "it waits");
        }
        assert!(within(list.verdict_after_refresh(TWO)).await.is_allowed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_keeps_its_permit_until_its_last_request_has_left() {
    let resolver = ScriptedResolver::default();
    resolver.set_outcome(HOST, Family::V4, late(900, ONE, 3600));
    let list = tiny_list(&[HOST]).max_waiting(1).spawn(resolver);
    let mut first = Box::pin(list.verdict_after_refresh(TWO));
    let mut second = Box::pin(list.verdict_after_refresh(TWO));
    assert!(first.as_mut().now_or_never().is_none());
    assert!(second.as_mut().now_or_never().is_none());
    drop(first);
    let at_once = |peer| list.verdict_after_refresh(peer).now_or_never().is_some();
    assert!(at_once(ONE), "the permit is in use");
    drop(second);
    assert!(!at_once(ONE));
}

#[tokio::test(start_paused = true)]
async fn a_new_server_is_admitted_after_an_unlisted_peer_that_called_just_before() {
    let (resolver, list) = asked_at_zero().await;
    sleep(Duration::from_secs(60)).await;
    until(|| resolver.asked_at(HOST, Family::V4).len() == 2).await;
    sleep(Duration::from_millis(500)).await;
    resolver.set(HOST, 60, &["127.0.1.2"]);
    sleep(Duration::from_millis(4_400)).await;
    let start = Instant::now();
    let verdict = within(list.verdict_after_refresh(UNLISTED)).await;
    assert_eq!(kind(&verdict), Some(RejectionKind::NotListed));
    // The call waits until both questions may go out again. The AAAA question went out later than the A question, by
    // up to the jitter.
    assert!(start.elapsed() <= Duration::from_millis(602));

    sleep(Duration::from_millis(100)).await;
    let start = Instant::now();
    assert!(within(list.verdict_after_refresh(TWO)).await.is_allowed());
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_for_a_question_that_may_go_out_within_the_wait() {
    for (called_at, waits) in [(3_999, None), (4_001, Some(999)), (4_900, Some(100))] {
        let (resolver, list) = asked_at_zero().await;
        resolver.set(HOST, 60, &["127.0.1.2"]);
        sleep(Duration::from_millis(called_at)).await;
        let start = Instant::now();
        let verdict = within(list.verdict_after_refresh(TWO)).await;
        assert_eq!(verdict.is_allowed(), waits.is_some(), "{called_at}");
        let waits = Duration::from_millis(waits.unwrap_or_default());
        let tick = Duration::from_millis(2);
        assert!(
            (waits..=waits + tick).contains(&start.elapsed()),
            "{called_at}: {:?}",
            start.elapsed()
        );
        let asked = resolver.asked_at(HOST, Family::V4);
        assert_eq!(asked.len(), 1 + usize::from(verdict.is_allowed()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_question_goes_out_when_due_although_the_peer_has_left() {
    let (resolver, list) = asked_at_zero().await;
    resolver.set(HOST, 60, &["127.0.1.2"]);
    sleep(Duration::from_millis(4_500)).await;
    let mut waiter = Box::pin(list.verdict_after_refresh(UNLISTED));
    assert!(waiter.as_mut().now_or_never().is_none());
    drop(waiter);
    sleep(Duration::from_millis(502)).await;
    assert!(list.verdict(TWO).is_allowed());
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_for_each_host_until_its_question_may_go_out() {
    let resolver = ScriptedResolver::default();
    resolver.set(HOST, 60, &["127.0.1.1"]);
    resolver.set_outcome(OTHER, Family::V4, late(700, UNLISTED, 60));
    let list = AllowList::builder()
        .host(host_name(HOST))
        .insecure_allow_special_addresses()
        .spawn(resolver.clone());
    within(list.ready()).await;
    sleep(Duration::from_millis(300)).await;
    list.replace_hosts([HOST, OTHER].map(host_name));
    sleep(Duration::from_millis(1_000)).await;
    resolver.set(OTHER, 60, &["127.0.1.2"]);

    // After this pause, the question of HOST may go out in 0.6 s, and the question of OTHER, whose answer lists the
    // peer, in 0.9 s.
    sleep(Duration::from_millis(3_100)).await;
    let start = Instant::now();
    assert!(within(list.verdict_after_refresh(TWO)).await.is_allowed());
    let took = start.elapsed();
    let expected = Duration::from_millis(900)..=Duration::from_millis(903);
    assert!(expected.contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_of_a_host_that_was_just_added_waits_for_its_answer() {
    let (resolver, list) = asked_at_zero().await;
    resolver.set_outcome(OTHER, Family::V4, late(300, TWO, 60));
    sleep(Duration::from_secs(1)).await;
    list.replace_hosts([HOST, OTHER].map(host_name));
    assert!(within(list.verdict_after_refresh(TWO)).await.is_allowed());
}

#[tokio::test(start_paused = true)]
async fn no_call_waits_for_the_lookup_of_a_removed_host() {
    let (resolver, list) = asked_at_zero().await;
    resolver.set_outcome(OTHER, Family::V4, Outcome::Pending);
    list.replace_hosts([HOST, OTHER].map(host_name));
    sleep(Duration::from_secs(1)).await;
    list.replace_hosts([host_name(HOST)]);
    sleep(Duration::from_millis(1)).await;
    assert!(list.verdict_after_refresh(TWO).now_or_never().is_some());
}

#[tokio::test(start_paused = true)]
async fn without_waiting_a_call_still_triggers_a_refresh() {
    let resolver = ScriptedResolver::default();
    resolver.set(HOST, 3600, &["127.0.1.1"]);
    let list = AllowList::builder()
        .host(host_name(HOST))
        .on_demand_wait(Duration::ZERO)
        .insecure_allow_special_addresses()
        .spawn(resolver.clone());
    within(list.ready()).await;
    resolver.set(HOST, 3600, &["127.0.1.2"]);
    sleep(Duration::from_secs(6)).await;
    let verdict = list.verdict_after_refresh(TWO).now_or_never();
    assert!(verdict.is_some_and(|verdict| !verdict.is_allowed()));
    sleep(Duration::from_millis(1)).await;
    assert!(list.verdict(TWO).is_allowed());
}

#[tokio::test(start_paused = true)]
async fn endless_unlisted_peers_trigger_one_refresh_in_5_seconds() {
    let (resolver, list) = known_for_an_hour().await;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(60) {
        sleep(Duration::from_millis(100)).await;
        assert!(
            !within(list.verdict_after_refresh(UNLISTED))
                .await
                .is_allowed()
        );
    }
    let asked = resolver.asked_at(HOST, Family::V4);
    for pair in asked.windows(2) {
        let pause = pair[1] - pair[0];
        assert!(pause >= Duration::from_secs(5), "{asked:?}");
    }
    // The first question goes out at the start, and each later question as soon as it may go out.
    for pair in asked[1..].windows(2) {
        let pause = pair[1] - pair[0];
        assert!(pause <= Duration::from_millis(5_002), "{asked:?}");
    }
    assert!((13..=14).contains(&asked.len()), "{}", asked.len());
}

#[tokio::test(start_paused = true)]
async fn unlisted_peers_behind_the_layer_trigger_one_refresh() {
    let (resolver, list) = known_for_an_hour().await;
    let service = VerifySourceLayer::rejecting(list, SocketAddrPeer).layer(service_fn(
        async |_: Request<()>| Ok::<_, Infallible>(Response::new(String::new())),
    ));
    let before = resolver.total();
    resolver.set_outcome(HOST, Family::V4, late(500, ONE, 3600));
    let flood = (0..2000).map(|_| service.clone().oneshot(from(UNLISTED)));
    for response in within(join_all(flood)).await {
        let status = response.map(|response| response.status());
        assert_eq!(status, Ok(StatusCode::FORBIDDEN));
    }
    assert_eq!(resolver.total() - before, 2);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_leaves_cancels_nothing() {
    let (resolver, list) = known_for_an_hour().await;
    resolver.set_outcome(HOST, Family::V4, late(500, TWO, 3600));

    let mut waiter = Box::pin(list.verdict_after_refresh(UNLISTED));
    assert!(waiter.as_mut().now_or_never().is_none());
    drop(waiter);
    sleep(Duration::from_millis(501)).await;

    assert!(list.verdict(TWO).is_allowed());
    assert_eq!(resolver.asked_at(HOST, Family::V4).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn waiters_that_leave_return_their_permits() {
    let (resolver, list) = known_for_an_hour().await;
    resolver.set_outcome(HOST, Family::V4, late(900, TWO, 3600));
    for at in 0..5000 {
        let waiter = list.verdict_after_refresh(other_peer(at)).now_or_never();
        assert!(waiter.is_none());
    }
    assert!(within(list.verdict_after_refresh(TWO)).await.is_allowed());
}

#[tokio::test(start_paused = true)]
async fn slow_dns_delays_an_unlisted_peer_by_one_second_while_the_lookup_continues() {
    let resolver = ScriptedResolver::default();
    resolver.set(HOST, 3600, &["127.0.1.1"]);
    let list = AllowList::builder()
        .host(host_name(HOST))
        .insecure_allow_special_addresses()
        .question_time_limit(Duration::from_secs(10))
        .spawn(resolver.clone());
    within(list.ready()).await;
    sleep(Duration::from_secs(6)).await;
    resolver.set_outcome(HOST, Family::V4, late(9000, TWO, 3600));

    let start = Instant::now();
    let verdict = within(list.verdict_after_refresh(TWO)).await;
    assert_eq!(kind(&verdict), Some(RejectionKind::NotListed));
    assert_eq!(start.elapsed(), Duration::from_secs(1));

    sleep(Duration::from_millis(8001)).await;
    assert!(list.verdict(TWO).is_allowed());
}

#[tokio::test(start_paused = true)]
async fn a_listed_peer_never_waits() {
    let (resolver, list) = known_for_an_hour().await;
    resolver.set_outcome(HOST, Family::V4, Outcome::Pending);
    let waiting = (0..2000).map(|_| Box::pin(list.verdict_after_refresh(UNLISTED)));
    let mut waiting: Vec<_> = waiting.collect();
    for waiter in &mut waiting {
        let _ = waiter.as_mut().now_or_never();
    }
    let verdict = list.verdict_after_refresh(ONE).now_or_never();
    assert!(verdict.is_some_and(|verdict| verdict.is_allowed()));
}

#[tokio::test(start_paused = true)]
async fn a_thousand_first_requests_cause_one_question_each() {
    let resolver = ScriptedResolver::default();
    let hosts: Vec<_> = Environment::Production.hosts().collect();
    for (at, host) in hosts.iter().enumerate() {
        resolver.set_outcome(host.as_str(), Family::V4, late(300, peer(at), 3600));
    }
    let list = AllowList::builder()
        .environment(Environment::Production)
        .insecure_allow_special_addresses()
        .spawn(resolver.clone());

    let first = (0..1000).map(|at| list.verdict_after_refresh(peer(at % 8)));
    let verdicts = within(join_all(first)).await;

    assert!(verdicts.iter().all(Verdict::is_allowed));
    for host in &hosts {
        assert_eq!(
            resolver.asked_at(host.as_str(), Family::V4).len(),
            1,
            "{host}"
        );
        assert_eq!(
            resolver.asked_at(host.as_str(), Family::V6).len(),
            1,
            "{host}"
        );
    }
    assert_eq!(resolver.total(), 16);
}

#[tokio::test(start_paused = true)]
async fn before_the_first_answer_a_request_waits_a_second_and_gets_503() {
    let resolver = ScriptedResolver::default();
    resolver.set_outcome(HOST, Family::V4, late(3000, ONE, 3600));
    let list = tiny_list(&[HOST]).spawn(resolver);
    let service = VerifySourceLayer::rejecting(list.clone(), SocketAddrPeer).layer(service_fn(
        async |_: Request<()>| Ok::<_, Infallible>(Response::new(String::new())),
    ));

    let start = Instant::now();
    let response = within(service.clone().oneshot(from(ONE)))
        .await
        .unwrap_or_default();
    assert_eq!(start.elapsed(), Duration::from_secs(1));
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["retry-after"], "5");

    // The sender retries.
    sleep(Duration::from_secs(5)).await;
    let response = within(service.oneshot(from(ONE))).await.unwrap_or_default();
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_request_before_the_first_answer_is_admitted_with_it() {
    let resolver = ScriptedResolver::default();
    resolver.set_outcome(HOST, Family::V4, late(800, ONE, 3600));
    let list = tiny_list(&[HOST]).spawn(resolver);
    let start = Instant::now();
    assert!(within(list.verdict_after_refresh(ONE)).await.is_allowed());
    assert_eq!(start.elapsed(), Duration::from_millis(800));
}

#[tokio::test(start_paused = true)]
async fn an_on_demand_refresh_does_not_wait_for_the_back_off_of_a_failing_question() {
    let resolver = ScriptedResolver::default();
    resolver.set(HOST, 3600, &["127.0.1.1"]);
    fail(&resolver, OTHER, ResolveErrorKind::ServFail);
    let list = AllowList::builder()
        .hosts([HOST, OTHER].map(host_name))
        .insecure_allow_special_addresses()
        .spawn(resolver.clone());
    within(list.attempted()).await;
    // The question of OTHER fails at 0, 5, 15 and 35 s. It is not due again before 75 s.
    sleep(Duration::from_secs(45)).await;
    let before = resolver.asked_at(OTHER, Family::V4).len();
    resolver.set(OTHER, 3600, &["127.0.1.2"]);

    assert!(within(list.verdict_after_refresh(TWO)).await.is_allowed());
    assert_eq!(resolver.asked_at(OTHER, Family::V4).len(), before + 1);
}

#[tokio::test(start_paused = true)]
async fn an_on_demand_refresh_repeats_no_question_of_a_moment_ago() {
    let list = AllowList::builder()
        .hosts([HOST, OTHER].map(host_name))
        .insecure_allow_special_addresses();
    // During this pause, OTHER is asked again between 8 s and 8.5 s.
    asks_each_question_twice(list, Duration::from_secs(9)).await;
}

#[tokio::test(start_paused = true)]
async fn an_on_demand_refresh_repeats_no_question_within_its_interval_for_any_floor() {
    // During this pause, OTHER is asked again between 8 s and 8.5 s.
    asks_each_question_twice(tiny_list(&[HOST, OTHER]), Duration::from_secs(11)).await;
}

/// An unlisted peer calls after `pause`. Shortly before, the question of OTHER was repeated, but not the question of
/// HOST.
async fn asks_each_question_twice(list: AllowListBuilder, pause: Duration) {
    let resolver = ScriptedResolver::default();
    resolver.set(HOST, 3600, &["127.0.1.1"]);
    resolver.set(OTHER, 7, &["127.0.1.2"]);
    let list = list.spawn(resolver.clone());
    within(list.ready()).await;
    sleep(pause).await;

    let verdict = within(list.verdict_after_refresh(UNLISTED)).await;
    assert!(!verdict.is_allowed());

    assert_eq!(resolver.asked_at(HOST, Family::V4).len(), 2);
    assert_eq!(resolver.asked_at(OTHER, Family::V4).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn waiting_can_be_disabled_and_bounded() {
    let resolver = ScriptedResolver::default();
    resolver.set_outcome(HOST, Family::V4, late(500, ONE, 3600));
    let list = tiny_list(&[HOST])
        .on_demand_wait(Duration::ZERO)
        .spawn(resolver.clone());
    let verdict = list.verdict_after_refresh(ONE).now_or_never();
    assert_eq!(
        verdict.as_ref().and_then(kind),
        Some(RejectionKind::Unresolved)
    );

    let list = tiny_list(&[HOST]).max_waiting(2).spawn(resolver);
    let mut waiters: Vec<_> = (0..3)
        .map(|at| Box::pin(list.verdict_after_refresh(peer(at))))
        .collect();
    let at_once = waiters
        .iter_mut()
        .map(|waiter| waiter.as_mut().now_or_never().is_some());
    assert_eq!(at_once.collect::<Vec<_>>(), [false, false, true]);
}

#[tokio::test(start_paused = true)]
async fn an_unlisted_peer_of_the_other_family_is_judged_by_that_family() {
    let (_, list) = known_for_an_hour().await;
    let unlisted = "2001:db8::66".parse().expect("it is an address");
    let verdict = within(list.verdict_after_refresh(unlisted)).await;
    assert_eq!(kind(&verdict), Some(RejectionKind::NotListed));
}

/// Starts a list whose answer is valid for an hour. The last question was sent 6 s ago.
async fn known_for_an_hour() -> (ScriptedResolver, AllowList) {
    let resolver = ScriptedResolver::default();
    resolver.set(HOST, 3600, &["127.0.1.1"]);
    let list = AllowList::builder()
        .host(host_name(HOST))
        .insecure_allow_special_addresses()
        .spawn(resolver.clone());
    within(list.ready()).await;
    sleep(Duration::from_secs(6)).await;
    (resolver, list)
}

/// Starts a list whose answer is valid for a minute. Its questions have just been sent.
async fn asked_at_zero() -> (ScriptedResolver, AllowList) {
    let resolver = ScriptedResolver::default();
    resolver.set(HOST, 60, &["127.0.1.1"]);
    let list = AllowList::builder()
        .host(host_name(HOST))
        .insecure_allow_special_addresses()
        .spawn(resolver.clone());
    within(list.ready()).await;
    (resolver, list)
}

fn late(millis: u64, address: IpAddr, ttl: u64) -> Outcome {
    let line = Outcome::Answer(vec![address], Duration::from_secs(ttl));
    Outcome::After(Duration::from_millis(millis), Box::new(line))
}

fn peer(at: usize) -> IpAddr {
    [127, 10, 0, at as u8].into()
}

fn other_peer(at: u16) -> IpAddr {
    let [high, low] = at.to_be_bytes();
    [127, 66, high, low].into()
}
