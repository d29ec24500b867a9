//! Tests of what the list logs and reports about its configuration, its lookups and its windows.

use std::{convert::Infallible, time::Duration};

use callback_source::{
    AllowList, Family, ResolveErrorKind,
    verify::{SocketAddrPeer, VerifySourceLayer},
    vipps::Environment,
};
use callback_source_testkit::ScriptedResolver;
use http::{Request, Response};
use integration_tests::{log::Log, merchant::host_name, within};
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt, service_fn};

use crate::common::{HOST, ONE, OTHER, fail, from};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_list_without_hosts_and_networks_is_logged() {
    let log = Log::capture();
    let resolver = ScriptedResolver::default;
    let network = "20.0.0.0/8".parse().unwrap();
    let _ = AllowList::builder().host(host_name(HOST)).pair(resolver());
    let _ = AllowList::builder().net(network).unwrap().pair(resolver());
    let lines = || log.lines("WARN", &["every callback is refused"]).len();
    assert_eq!(lines(), 0);
    let _ = AllowList::builder().pair(resolver());
    assert_eq!(lines(), 1);
}

#[test]
fn a_list_without_the_hosts_for_disaster_recovery_is_logged() {
    let log = Log::capture();
    let lines = || log.lines("WARN", &["disaster recovery"]).len();
    let production: Vec<_> = Environment::Production.hosts().collect();
    let resolver = ScriptedResolver::default();
    let (list, _refresher) = AllowList::builder()
        .hosts(production.clone())
        .pair(resolver.clone());
    assert_eq!(lines(), 0);
    let _ = AllowList::builder()
        .hosts(production[..4].to_vec())
        .pair(resolver);
    assert_eq!(lines(), 1);
    list.replace_hosts(production[..4].to_vec());
    assert_eq!(lines(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_lookup_that_is_given_up_is_logged_once_a_day() {
    let log = Log::capture();
    let resolver = ScriptedResolver::default();
    resolver.set(HOST, 60, &["20.0.0.1"]);
    fail(&resolver, OTHER, ResolveErrorKind::Timeout);
    let list = AllowList::builder()
        .hosts([HOST, OTHER].map(host_name))
        .only_family(Family::V4)
        .stale_for(10 * MINUTE)
        .spawn(resolver);
    let lines = || log.lines("WARN", &["is given up"]).len();
    sleep(9 * MINUTE).await;
    assert_eq!(lines(), 0);
    sleep(HOUR).await;
    assert_eq!(lines(), 1);
    sleep(22 * HOUR).await;
    assert_eq!(lines(), 1);
    sleep(3 * HOUR).await;
    assert_eq!(lines(), 2);
    drop(list);
}

#[tokio::test(start_paused = true)]
async fn a_denial_is_logged_when_it_is_repeated_and_another_failure_at_once() {
    for (kind, line, at_once) in [
        (ResolveErrorKind::NoData, "DNS denies this host", 0),
        (ResolveErrorKind::Timeout, "lookup failed", 1),
    ] {
        let log = Log::capture();
        let resolver = ScriptedResolver::default();
        fail(&resolver, HOST, kind);
        let list = AllowList::builder()
            .host(host_name(HOST))
            .only_family(Family::V4)
            .spawn(resolver);
        within(list.attempted()).await;
        assert_eq!(log.lines("WARN", &[line]).len(), at_once, "{kind:?}");
        sleep(MINUTE).await;
        assert_eq!(log.lines("WARN", &[line]).len(), 1, "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_window_is_reported_when_it_happens() {
    let resolver = ScriptedResolver::default();
    resolver.set(HOST, 60, &["20.0.0.1"]);
    let list = AllowList::builder()
        .host(host_name(HOST))
        .only_family(Family::V4)
        .stale_for(1_000 * SECOND)
        .spawn(resolver.clone());
    let mut changes = list.changes();
    let [added] = &changes.next().await[..] else {
        panic!("one host is added");
    };
    assert_eq!((added.added.len(), added.removed.len()), (1, 0));
    let answered = Instant::now();
    fail(&resolver, HOST, ResolveErrorKind::Timeout);
    let [ended] = &changes.next().await[..] else {
        panic!("one host changes");
    };
    assert_eq!((ended.added.len(), ended.removed.len()), (0, 1));
    let (after, end) = (answered.elapsed(), 1_060 * SECOND);
    assert!((end..end + SECOND).contains(&after), "{after:?}");
}

#[tokio::test]
async fn an_admission_is_logged_for_debugging() {
    let log = Log::capture();
    let list = AllowList::fixed([ONE]);
    let merchant =
        service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(String::new())));
    let service = VerifySourceLayer::rejecting(list, SocketAddrPeer).layer(merchant);
    let response = service.oneshot(from(ONE)).await.unwrap_or_default();
    assert_eq!(response.status(), 200);
    let parts = ["callback admitted", "peer=127.0.1.1"];
    assert_eq!(log.lines("DEBUG", &parts).len(), 1);
}
