//! Tests of a list from its start to its end: failures that it survives, and resources that it releases.

use std::{
    convert::Infallible,
    io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use callback_source::{
    AllowList, Family, Freshness, Question, RejectionKind, Resolve, ResolveError, ResolveErrorKind,
    set::QuestionStatus,
    verify::{SocketAddrPeer, VerifySourceLayer},
};
use callback_source_testkit::{Outcome, ScriptedResolver, dns::DnsServer};
use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use integration_tests::{
    log::Log,
    merchant::{host_name, tiny_list},
    until, within,
};
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt, service_fn};

use crate::common::{HOST, ONE, OTHER, TWO, assert_rejected, fail, from};

#[tokio::test(start_paused = true)]
async fn when_all_handles_are_dropped_the_refresher_ends_and_drops_the_resolver() {
    let resolver = two_hosts();
    let list = tiny_list(&[HOST, OTHER]).spawn(resolver.clone());
    within(list.ready()).await;
    let (clone, changes) = (list.clone(), list.changes());
    let layer = VerifySourceLayer::rejecting(list.clone(), SocketAddrPeer);
    assert!(resolver.handles() > 1);

    drop(list);
    drop(clone);
    drop(changes);
    sleep(Duration::from_secs(10)).await;
    assert!(resolver.handles() > 1, "the layer still needs it");
    drop(layer);
    until(|| resolver.handles() == 1).await;

    let asked = resolver.total();
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(resolver.total(), asked);
}

#[tokio::test(start_paused = true)]
async fn a_pending_question_does_not_keep_the_refresher_alive() {
    let resolver = two_hosts();
    resolver.set_outcome(HOST, Family::V4, Outcome::Pending);
    let list = AllowList::builder()
        .host(host_name(HOST))
        .question_time_limit(Duration::from_secs(1_000_000))
        .spawn(resolver.clone());
    sleep(Duration::from_secs(1)).await;
    drop(list);
    until(|| resolver.handles() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn the_refresher_of_a_pair_returns_when_the_list_is_dropped() {
    let (list, refresher) = tiny_list(&[HOST]).pair(two_hosts());
    let running = tokio::spawn(refresher.run());
    within(list.ready()).await;
    drop(list);
    assert!(within(running).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_list_whose_refresher_died_ends_in_unresolved() {
    let (list, refresher) = tiny_list(&[HOST])
        .stale_for(Duration::from_secs(60))
        .pair(two_hosts());
    let running = tokio::spawn(refresher.run());
    within(list.ready()).await;
    running.abort();
    assert!(running.await.is_err());

    assert!(list.verdict(ONE).is_allowed());
    sleep(Duration::from_secs(60 + 60 + 6)).await;
    assert_rejected(&list, ONE, RejectionKind::Unresolved);
    assert!(!list.is_ready());
    // A call must not wait for a refresh that never happens.
    assert!(list.verdict_after_refresh(ONE).now_or_never().is_some());
}

#[test]
fn a_list_whose_runtime_has_ended_logs_an_error_at_its_first_refusal() {
    let log = Log::capture();
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().expect("a runtime")
    };
    let ended = runtime();
    let list = ended.block_on(async { tiny_list(&[HOST]).spawn(two_hosts()) });
    drop(ended);
    assert!(log.lines("ERROR", &[]).is_empty());

    let merchant =
        service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(String::new())));
    let service = VerifySourceLayer::rejecting(list, SocketAddrPeer).layer(merchant);
    for _ in 0..3 {
        let response = runtime().block_on(service.clone().oneshot(from(ONE)));
        let status = response.unwrap_or_default().status();
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    }
    let lines = log.lines(
        "ERROR",
        &["the refresher has ended", "a runtime that lives as long"],
    );
    assert_eq!(lines.len(), 1, "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_dropped_before_its_refresher_logs_no_error() {
    let log = Log::capture();
    let (list, refresher) = tiny_list(&[HOST]).pair(two_hosts());
    let running = tokio::spawn(refresher.run());
    within(list.ready()).await;
    drop(list);
    within(running).await.expect("it ends");
    assert!(log.lines("ERROR", &[]).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_waits_is_admitted_by_a_network_that_is_added() {
    let resolver = ScriptedResolver::default();
    resolver.set_outcome(HOST, Family::V4, Outcome::Pending);
    let list = tiny_list(&[HOST]).spawn(resolver);
    let start = Instant::now();
    let mut verdict = Box::pin(list.verdict_after_refresh(TWO));
    assert!(verdict.as_mut().now_or_never().is_none(), "it waits");
    let network = "127.0.1.2/32".parse().expect("a network");
    list.replace_networks([network]).expect("one address");
    assert!(within(verdict).await.is_allowed());
    assert_eq!(start.elapsed(), Duration::ZERO);

    let whole = "::/0".parse().expect("a network");
    let error = list.replace_networks([whole]).expect_err("it is refused");
    assert!(error.to_string().contains("::/0"), "{error}");
    assert!(list.verdict(TWO).is_allowed());
    list.replace_networks([]).expect("no network");
    assert_rejected(&list, TWO, RejectionKind::Unresolved);
}

#[tokio::test(start_paused = true)]
async fn a_list_whose_refresher_never_ran_admits_no_peer() {
    let (list, _refresher) = tiny_list(&[HOST]).pair(two_hosts());
    let start = Instant::now();
    let verdict = within(list.verdict_after_refresh(ONE)).await;
    assert!(!verdict.is_allowed());
    assert_eq!(start.elapsed(), Duration::from_secs(1));
    assert_rejected(&list, ONE, RejectionKind::Unresolved);
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_resolver_is_only_a_failed_lookup() {
    for panic in [Outcome::Panic, Outcome::PanicInFuture] {
        let resolver = two_hosts();
        resolver.set_outcome(HOST, Family::V4, panic);
        let list = tiny_list(&[HOST, OTHER]).spawn(resolver.clone());
        within(list.attempted()).await;

        assert!(list.verdict(TWO).is_allowed());
        assert_rejected(&list, ONE, RejectionKind::Unresolved);
        let family = list.health().remove(0).families[0].clone();
        assert_eq!(family.state, QuestionStatus::Failing);
        let error = family.last_error.expect("it failed");
        assert_eq!(error.kind(), ResolveErrorKind::Panicked);
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        assert!(cause.is_some_and(|cause| cause.contains("scripted panic")));

        resolver.set(HOST, 60, &["127.0.1.1"]);
        within(list.changes().next()).await;
        assert!(list.verdict(ONE).is_allowed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_removes_no_known_address() {
    let resolver = two_hosts();
    let list = tiny_list(&[HOST, OTHER]).spawn(resolver.clone());
    within(list.ready()).await;
    resolver.set_outcome(HOST, Family::V4, Outcome::Panic);
    sleep(Duration::from_secs(62)).await;
    let verdict = list.verdict(ONE);
    let freshness = verdict.allowed().map(|allowed| allowed.freshness());
    assert_eq!(freshness, Some(Freshness::Stale));
}

#[tokio::test(start_paused = true)]
async fn a_question_that_never_ends_is_cut_off_and_delays_no_other() {
    let resolver = two_hosts();
    resolver.set_outcome(HOST, Family::V4, Outcome::Pending);
    let start = Instant::now();
    let list = tiny_list(&[HOST, OTHER]).spawn(resolver.clone());
    within(list.changes().next()).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert!(list.verdict(TWO).is_allowed());

    within(list.attempted()).await;
    assert_eq!(start.elapsed(), Duration::from_secs(5));
    let error = list.health()[0].families[0].last_error.clone();
    assert_eq!(
        error.map(|error| error.kind()),
        Some(ResolveErrorKind::Timeout)
    );

    // OTHER is still refreshed at its own TTL.
    sleep(Duration::from_secs(600)).await;
    assert!(resolver.asked_at(OTHER, Family::V4).len() >= 10);
}

#[tokio::test(start_paused = true)]
async fn replaced_hosts_lose_their_addresses_and_new_ones_are_asked_at_once() {
    let resolver = two_hosts();
    let list = tiny_list(&[HOST]).spawn(resolver.clone());
    within(list.ready()).await;
    // A lingering address is removed, too.
    resolver.set(HOST, 60, &["127.0.1.9"]);
    sleep(Duration::from_secs(62)).await;
    assert!(list.verdict(ONE).is_allowed());

    let start = Instant::now();
    let mut changes = list.changes();
    list.replace_hosts([host_name(OTHER)]);
    assert!(!list.verdict(ONE).is_allowed());
    assert!(!list.verdict([127, 0, 1, 9].into()).is_allowed());

    let mut seen = within(changes.next()).await;
    if seen.iter().all(|change| change.added.is_empty()) {
        seen.extend(within(changes.next()).await);
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert!(list.verdict(TWO).is_allowed());
    assert_eq!(seen.len(), 2);
    assert_rejected(&list, ONE, RejectionKind::NotListed);

    let asked = resolver.asked_at(HOST, Family::V4).len();
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(resolver.asked_at(HOST, Family::V4).len(), asked);
}

#[tokio::test(start_paused = true)]
async fn hosts_that_stay_keep_their_addresses_without_a_question() {
    let resolver = two_hosts();
    let list = tiny_list(&[HOST, OTHER]).spawn(resolver.clone());
    within(list.ready()).await;
    let asked = resolver.total();
    list.replace_hosts([OTHER, HOST, HOST].map(host_name));
    sleep(Duration::from_secs(1)).await;
    assert!(list.verdict(ONE).is_allowed() && list.verdict(TWO).is_allowed());
    assert_eq!(resolver.total(), asked);
    assert_eq!(list.health().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_a_host_that_was_removed_meanwhile_admits_no_peer() {
    let resolver = two_hosts();
    let answer = Outcome::Answer(vec![ONE], Duration::from_secs(60));
    resolver.set_outcome(
        HOST,
        Family::V4,
        Outcome::After(Duration::from_secs(2), Box::new(answer)),
    );
    let list = tiny_list(&[HOST, OTHER]).spawn(resolver);
    sleep(Duration::from_secs(1)).await;
    list.replace_hosts([host_name(OTHER)]);
    sleep(Duration::from_secs(2)).await;
    assert_rejected(&list, ONE, RejectionKind::NotListed);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_added_back_within_the_interval_floor_is_known_at_once() {
    let resolver = two_hosts();
    let list = AllowList::builder()
        .hosts([HOST, OTHER].map(host_name))
        .insecure_allow_special_addresses()
        .spawn(resolver.clone());
    within(list.ready()).await;

    let start = Instant::now();
    list.replace_hosts([host_name(OTHER)]);
    assert!(!list.verdict(ONE).is_allowed());
    list.replace_hosts([HOST, OTHER].map(host_name));
    within(list.changes().next()).await;

    assert!(list.verdict(ONE).is_allowed());
    assert!(
        start.elapsed() <= Duration::from_millis(10),
        "{:?}",
        start.elapsed()
    );
    assert!(
        resolver.asked_at(HOST, Family::V4).len() <= 1,
        "the answer of a moment ago is still used"
    );
}

#[tokio::test(start_paused = true)]
async fn hosts_that_come_and_go_cause_one_question_per_interval_floor() {
    let resolver = two_hosts();
    let list = AllowList::builder()
        .host(host_name(OTHER))
        .insecure_allow_special_addresses()
        .spawn(resolver.clone());
    for _ in 0..100 {
        // The pause of 600 ms is longer than the jitter of a question, but much shorter than the refresh interval
        // floor.
        list.replace_hosts([HOST, OTHER].map(host_name));
        sleep(Duration::from_millis(600)).await;
        list.replace_hosts([host_name(OTHER)]);
        sleep(Duration::from_millis(50)).await;
    }
    let asked = resolver.asked_at(HOST, Family::V4);
    for pair in asked.windows(2) {
        assert!(pair[1] - pair[0] >= Duration::from_secs(5), "{asked:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_refreshed_soon_after_a_resolver_has_dropped_it() {
    let resolver = ScriptedResolver::default();
    resolver.set(HOST, 60, &["127.0.1.1"]);
    resolver.set(OTHER, 5, &["127.0.1.2"]);
    let list = AllowList::builder()
        .hosts([HOST, OTHER].map(host_name))
        .insecure_allow_special_addresses()
        .spawn(resolver.clone());
    within(list.ready()).await;
    sleep(Duration::from_secs(60 * 60)).await;

    for (host, earliest, latest) in [(HOST, 61_000, 61_510), (OTHER, 6_000, 6_510)] {
        let asked = resolver.asked_at(host, Family::V4);
        assert!(asked.len() > 50);
        for pair in asked.windows(2) {
            let pause = pair[1] - pair[0];
            let in_time = Duration::from_millis(earliest)..=Duration::from_millis(latest);
            assert!(in_time.contains(&pause), "{host}: {pause:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_denial_is_refreshed_once_a_resolver_has_dropped_it() {
    let list = AllowList::builder()
        .hosts([HOST, OTHER].map(host_name))
        .insecure_allow_special_addresses();
    let resolver = two_hosts();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    let resolver = move |question: Question| {
        let denied = question.host == host_name(HOST) && question.family == Family::V4;
        if denied {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            log.push(Instant::now());
        }
        let resolver = resolver.clone();
        async move {
            match denied {
                true => Err(ResolveError::new(ResolveErrorKind::NxDomain)
                    .with_negative_ttl(Duration::from_secs(30))),
                false => resolver.resolve(question).await,
            }
        }
    };
    let list = list.spawn(resolver);
    within(list.ready()).await;
    assert_eq!(list.health()[0].families[0].state, QuestionStatus::Denied);
    sleep(Duration::from_secs(600)).await;

    let asked = asked.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert!(asked.len() > 15);
    for pair in asked.windows(2) {
        let pause = pair[1] - pair[0];
        let in_time = Duration::from_millis(31_000)..=Duration::from_millis(31_510);
        assert!(in_time.contains(&pause), "{pause:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_added_back_is_refreshed_when_its_ttl_ends() {
    let resolver = ScriptedResolver::default();
    resolver.set(HOST, 60, &["127.0.1.1"]);
    resolver.set(OTHER, 3600, &["127.0.1.2"]);
    let list = AllowList::builder()
        .hosts([HOST, OTHER].map(host_name))
        .ttl_bounds(Duration::from_secs(30), Duration::from_secs(3600))
        .expect("the bounds are valid")
        .insecure_allow_special_addresses()
        .spawn(resolver.clone());
    within(list.ready()).await;
    list.replace_hosts([host_name(OTHER)]);
    sleep(Duration::from_secs(20)).await;
    list.replace_hosts([HOST, OTHER].map(host_name));
    sleep(Duration::from_secs(60)).await;

    let asked = resolver.asked_at(HOST, Family::V4);
    assert_eq!(asked.len(), 2, "known from before, and refreshed");
    let pause = asked[1] - asked[0];
    let in_time = Duration::from_millis(61_000)..=Duration::from_millis(61_510);
    assert!(in_time.contains(&pause), "{pause:?}");
}

#[tokio::test(start_paused = true)]
async fn unlisted_peers_that_trigger_no_refresh_do_not_delay_the_next_one() {
    let resolver = two_hosts();
    let list = tiny_list(&[HOST]).spawn(resolver.clone());
    within(list.ready()).await;
    for _ in 0..100 {
        assert!(!list.verdict_after_refresh(TWO).await.is_allowed());
        // The on-demand refresh has ended, and no question is repeated within 5 s.
        let last = resolver.asked_at(HOST, Family::V4);
        sleep(Duration::from_millis(3_900)).await;
        assert!(!list.verdict_after_refresh(TWO).await.is_allowed());
        assert_eq!(resolver.asked_at(HOST, Family::V4).len(), last.len());
        sleep(Duration::from_millis(70_000)).await;
        let asked = resolver.asked_at(HOST, Family::V4);
        let pause = asked[last.len()] - asked[last.len() - 1];
        let in_time = Duration::from_millis(61_000)..=Duration::from_millis(61_510);
        assert!(in_time.contains(&pause), "{pause:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn times_that_move_on_are_saved_once_a_minute() -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("state.json");
    let resolver = ScriptedResolver::default();
    resolver.set(HOST, 20, &["127.0.1.1"]);
    let list = tiny_list(&[HOST]).state_file(&path).spawn(resolver);
    within(list.ready()).await;
    until(|| path.exists()).await;
    for _ in 0..5 {
        let start = Instant::now();
        std::fs::remove_file(&path)?;
        sleep(Duration::from_secs(59)).await;
        assert!(!path.exists(), "before a minute is over");
        until(|| path.exists()).await;
        assert!(start.elapsed() < Duration::from_secs(61), "much later");
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_failing_question_does_not_wait_for_a_resolver_s_cache() {
    let resolver = ScriptedResolver::default();
    resolver.set(OTHER, 3600, &["127.0.1.2"]);
    let fails = Outcome::Failure(ResolveErrorKind::ServFail);
    resolver.set_outcome(HOST, Family::V4, fails);
    let list = AllowList::builder()
        .hosts([HOST, OTHER].map(host_name))
        .insecure_allow_special_addresses()
        .spawn(resolver.clone());
    within(list.ready()).await;
    sleep(Duration::from_secs(60)).await;

    let asked = resolver.asked_at(HOST, Family::V4);
    let first = asked[1] - asked[0];
    assert!(first <= Duration::from_millis(5_510), "{first:?}");
}

#[tokio::test(start_paused = true)]
async fn changes_name_the_host_and_the_added_and_removed_addresses() {
    let resolver = two_hosts();
    let list = tiny_list(&[HOST, OTHER])
        .linger(Duration::from_secs(10))
        .spawn(resolver.clone());
    within(list.ready()).await;
    let mut changes = list.changes();

    resolver.set(HOST, 60, &["127.0.1.1", "127.0.1.9"]);
    resolver.set(OTHER, 60, &["127.0.1.8"]);
    let mut added = Vec::new();
    let mut removed = Vec::new();
    while removed.is_empty() || added.len() < 2 {
        let seen = tokio::time::timeout(Duration::from_secs(600), changes.next()).await;
        for change in seen.expect("there are changes") {
            added.extend(
                change
                    .added
                    .iter()
                    .map(|peer| (change.host.to_string(), *peer)),
            );
            removed.extend(
                change
                    .removed
                    .iter()
                    .map(|peer| (change.host.to_string(), *peer)),
            );
        }
    }
    added.sort();
    let nine = (HOST.to_owned(), IpAddr::from([127, 0, 1, 9]));
    let eight = (OTHER.to_owned(), IpAddr::from([127, 0, 1, 8]));
    assert_eq!(added, [nine, eight]);
    assert_eq!(removed, [(OTHER.to_owned(), TWO)]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_of_changes_misses_nothing() {
    let resolver = two_hosts();
    let list = tiny_list(&[HOST])
        .linger(Duration::ZERO)
        .spawn(resolver.clone());
    within(list.ready()).await;
    let mut changes = list.changes();
    let mut seen = list.snapshot().addresses(Instant::now().into_std());
    for last in 10..40 {
        resolver.set(HOST, 60, &[&format!("127.0.1.{last}")]);
        sleep(Duration::from_secs(62)).await;
        if last % 7 == 0 {
            for change in within(changes.next()).await {
                seen.extend(change.added);
                seen.retain(|peer| !change.removed.contains(peer));
            }
            assert_eq!(seen, list.snapshot().addresses(Instant::now().into_std()));
        }
    }
    for change in within(changes.next()).await {
        seen.extend(change.added);
        seen.retain(|peer| !change.removed.contains(peer));
    }
    assert_eq!(seen, [IpAddr::from([127, 0, 1, 39])].into());
    assert!(changes.next().now_or_never().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_wait_for_changes_misses_nothing() {
    let resolver = two_hosts();
    let list = tiny_list(&[HOST]).spawn(resolver.clone());
    within(list.ready()).await;
    let mut changes = list.changes();
    resolver.set(HOST, 60, &["127.0.1.9"]);
    for _ in 0..70 {
        // In each pass without a change, the time limit drops the wait.
        let seen = tokio::time::timeout(Duration::from_secs(1), changes.next()).await;
        if let Ok(seen) = seen {
            assert_eq!(seen[0].added, [IpAddr::from([127, 0, 1, 9])]);
            return;
        }
    }
    panic!("the change was lost");
}

#[tokio::test(start_paused = true)]
async fn one_failing_host_does_not_prevent_readiness() {
    let resolver = two_hosts();
    resolver.set_outcome(HOST, Family::V4, Outcome::Pending);
    resolver.set_outcome(
        HOST,
        Family::V6,
        Outcome::Failure(ResolveErrorKind::ServFail),
    );
    let list = AllowList::builder()
        .hosts([HOST, OTHER].map(host_name))
        .insecure_allow_special_addresses()
        .spawn(resolver.clone());
    let start = Instant::now();
    within(list.ready()).await;
    assert_eq!(
        start.elapsed(),
        Duration::from_secs(5),
        "every question is tried first"
    );

    // A host that fails later does not prevent readiness either.
    fail(&resolver, OTHER, ResolveErrorKind::ServFail);
    sleep(Duration::from_secs(3600)).await;
    assert!(list.is_ready());
    sleep(Duration::from_secs(25 * 3600)).await;
    assert!(!list.is_ready(), "no address is admitted any more");
}

#[tokio::test(start_paused = true)]
async fn a_list_without_an_answer_is_attempted_and_not_ready() {
    let resolver = ScriptedResolver::default();
    for family in Family::ALL {
        resolver.set_outcome(HOST, family, Outcome::Failure(ResolveErrorKind::ServFail));
    }
    let list = tiny_list(&[HOST]).spawn(resolver.clone());
    within(list.attempted()).await;
    assert!(!list.is_ready());
    let mut ready = Box::pin(list.ready());
    assert!(ready.as_mut().now_or_never().is_none());

    resolver.set(HOST, 60, &["127.0.1.1"]);
    within(ready).await;
    assert!(list.is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_static_network_makes_a_list_ready_once_all_is_attempted() {
    let resolver = ScriptedResolver::default();
    for family in Family::ALL {
        resolver.set_outcome(HOST, family, Outcome::Failure(ResolveErrorKind::Refused));
    }
    let network = "192.0.2.0/24".parse().expect("it is a network");
    let list = tiny_list(&[HOST])
        .net(network)
        .expect("it is not too wide")
        .spawn(resolver);
    assert!(!list.is_ready());
    assert!(
        list.verdict([192, 0, 2, 7].into()).is_allowed(),
        "from the start"
    );
    within(list.ready()).await;
}

#[tokio::test]
async fn a_hundred_lists_in_a_row_leave_no_task_behind() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    dns.set(HOST, 60, &[ONE]);
    let before = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    for _ in 0..100 {
        let list = tiny_list(&[HOST]).spawn(dns.resolver());
        within(list.ready()).await;
    }
    let alive = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    until(|| alive() <= before).await;
    Ok(())
}

fn two_hosts() -> ScriptedResolver {
    let resolver = ScriptedResolver::default();
    resolver.set(HOST, 60, &["127.0.1.1"]);
    resolver.set(OTHER, 60, &["127.0.1.2"]);
    resolver
}
