//! Tests of the metrics for a merchant's dashboard.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use callback_source::{
    AllowList, Answer, Family, Question, ResolveError, ResolveErrorKind,
    verify::{ForwardedPeer, SocketAddrPeer, TrustedProxies, VerifySourceLayer},
};
use http::{Request, Response};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt, service_fn};

/// Runs a test in paused time, with a separate recorder.
fn recorded<F: Future>(test: impl FnOnce(Snapshotter) -> F) {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build().unwrap();
    metrics::with_local_recorder(&recorder, || runtime.block_on(test(snapshotter)));
}

/// Returns each series with its value. A key has the form `name[label,label]`, without the prefix that all names share.
fn series(snapshotter: &Snapshotter) -> BTreeMap<String, f64> {
    let all = snapshotter.snapshot().into_vec().into_iter();
    let all = all.map(|(key, _, description, value)| {
        assert!(description.is_some(), "{key:?} is not described");
        let (name, labels) = key.key().clone().into_parts();
        let labels: Vec<_> = labels.iter().map(|label| label.value()).collect();
        let name = name.as_str().strip_prefix("callback_source_").unwrap();
        let value = match value {
            DebugValue::Counter(count) => count as f64,
            DebugValue::Gauge(gauge) => gauge.into_inner(),
            DebugValue::Histogram(_) => panic!("no metric is a histogram"),
        };
        (format!("{name}[{}]", labels.join(",")), value)
    });
    all.collect()
}

/// Returns the series that are not zero. Times are relative to `start`.
fn not_zero(snapshotter: &Snapshotter, start: f64) -> Vec<String> {
    let all = series(snapshotter).into_iter();
    let shown = all.filter(|(_, value)| *value != 0.0);
    shown
        .map(|(name, value)| match name.contains("timestamp") {
            true => format!("{name} {:+}", (value - start).round() as i64),
            false => format!("{name} {value}"),
        })
        .collect()
}

fn unix_now() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap().as_secs_f64()
}

async fn call(list: &AllowList, peer: &str) {
    let merchant = service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new("")));
    let service = VerifySourceLayer::rejecting(list.clone(), SocketAddrPeer).layer(merchant);
    let mut request = Request::new(());
    if let Ok(peer) = peer.parse::<SocketAddr>() {
        request.extensions_mut().insert(peer);
    }
    service.oneshot(request).await.unwrap();
}

#[test]
fn verdicts_lookups_and_the_set_are_counted() {
    recorded(async |snapshotter| {
        let resolver = async |question: Question| match (question.host.as_str(), question.family) {
            ("a.test", Family::V4) => Ok(Answer::new(
                ["20.0.0.1".parse().unwrap()],
                Duration::from_secs(60),
            )),
            (_, Family::V4) => Err(ResolveError::new(ResolveErrorKind::Bogus)),
            (_, Family::V6) => Err(ResolveError::new(ResolveErrorKind::NoData)),
        };
        let hosts = ["a.test", "b.test"].map(|host| host.parse().unwrap());
        let list = AllowList::builder()
            .hosts(hosts)
            .name("counted")
            .spawn(resolver);
        list.attempted().await;
        let start = unix_now();

        for peer in ["20.0.0.1:1", "20.0.0.1:2", "20.0.9.9:1", ""] {
            call(&list, peer).await;
        }
        let proxies = TrustedProxies::new(["10.0.0.7/32".parse().unwrap()]).unwrap();
        let peer = ForwardedPeer::x_forwarded_for(SocketAddrPeer, proxies);
        let merchant = service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new("")));
        let proxied = VerifySourceLayer::rejecting(list, peer).layer(merchant);
        for entries in [None, Some("unknown"), Some("10.0.0.7")] {
            let mut request = Request::new(());
            let proxy: SocketAddr = "10.0.0.7:1".parse().unwrap();
            request.extensions_mut().insert(proxy);
            if let Some(entries) = entries {
                let headers = request.headers_mut();
                headers.insert("x-forwarded-for", entries.parse().unwrap());
            }
            proxied.clone().oneshot(request).await.unwrap();
        }
        assert_eq!(
            not_zero(&snapshotter, start),
            [
                "addresses[counted] 1",
                "changes_total[counted] 1",
                "last_admitted_timestamp_seconds[counted] +0",
                "last_answer_timestamp_seconds[counted] +0",
                "lookups_total[counted,answer] 1",
                "lookups_total[counted,no-data] 2",
                "lookups_total[counted,other] 1",
                "oldest_answer_timestamp_seconds[counted] +0",
                "verdicts_total[counted,all-trusted] 1",
                "verdicts_total[counted,allow] 2",
                "verdicts_total[counted,forwarded-malformed] 1",
                "verdicts_total[counted,forwarded-missing] 1",
                "verdicts_total[counted,no-peer] 1",
                "verdicts_total[counted,unresolved] 1",
            ]
        );
    });
}

#[test]
fn lookups_of_watched_hosts_are_not_counted() {
    recorded(async |snapshotter| {
        let resolver = async |_: Question| {
            let addresses = ["20.0.0.1".parse().unwrap()];
            Ok::<_, ResolveError>(Answer::new(addresses, Duration::from_secs(3600)))
        };
        let list = AllowList::builder()
            .host("a.test".parse().unwrap())
            .watch(["w.test".parse().unwrap()])
            .only_family(Family::V4)
            .name("watching")
            .spawn(resolver);
        list.ready().await;
        sleep(Duration::from_secs(10)).await;
        // An unlisted peer triggers a lookup of both hosts.
        call(&list, "20.0.9.9:1").await;
        sleep(Duration::from_secs(1)).await;
        list.watched_attempted().await;
        let all = series(&snapshotter);
        assert_eq!(all["lookups_total[watching,answer]"], 2.0);
    });
}

#[test]
fn timestamps_are_zero_before_the_first_event_and_stay_at_the_last_one() {
    recorded(async |snapshotter| {
        let fails = Arc::new(Mutex::new(true));
        let failing = Arc::clone(&fails);
        let resolver = move |question: Question| {
            let fails = *failing.lock().unwrap() && question.host.as_str() == "a.test";
            let address = "20.0.0.1".parse().unwrap();
            std::future::ready(match fails {
                true => Err(ResolveError::new(ResolveErrorKind::ServFail)),
                false => Ok(Answer::new([address], Duration::from_secs(300))),
            })
        };
        let list = AllowList::builder().host("a.test".parse().unwrap());
        let list = list.name("answered").spawn(resolver);
        list.attempted().await;
        let all = series(&snapshotter);
        for metric in ["last_answer", "oldest_answer", "last_admitted"] {
            assert_eq!(all[&format!("{metric}_timestamp_seconds[answered]")], 0.0);
        }

        // The wall clock does not advance with the paused clock, so older times are negative here.
        let start = unix_now();
        *fails.lock().unwrap() = false;
        list.ready().await;
        call(&list, "20.0.0.1:1").await;
        *fails.lock().unwrap() = true;
        let answered = Instant::now();
        sleep(Duration::from_secs(1000)).await;
        call(&list, "20.0.0.9:1").await;
        let age = answered.elapsed().as_secs();
        let times = not_zero(&snapshotter, start);
        let times: Vec<_> = times
            .into_iter()
            .filter(|line| line.contains("timestamp"))
            .collect();
        assert!(times.contains(&"last_admitted_timestamp_seconds[answered] +0".to_owned()));
        let answer = times
            .iter()
            .find_map(|line| line.strip_prefix("last_answer_timestamp_seconds[answered] -"));
        let answer: u64 = answer.expect("there was an answer").parse().unwrap();
        assert!((age - 60..=age).contains(&answer), "{times:?}");
    });
}

#[test]
fn counters_are_zero_from_the_start_and_two_lists_do_not_share_them() {
    recorded(async |snapshotter| {
        let answer = |_: Question| {
            let address = "20.0.0.1".parse().unwrap();
            std::future::ready(Ok(Answer::new([address], Duration::from_secs(300))))
        };
        let host = || AllowList::builder().host("a.test".parse().unwrap());
        let (first, _refresher) = host().name("one").pair(answer);
        let all = series(&snapshotter);
        assert!(all.values().all(|value| *value == 0.0), "{all:?}");
        for series in [
            "verdicts_total[one,allow]",
            "verdicts_total[one,wrong-environment]",
            "lookups_total[one,timeout]",
            "changes_total[one]",
            "refused_then_listed_total[one]",
        ] {
            assert!(all.contains_key(series), "{series}");
        }

        let second = host().name("one").spawn(answer);
        second.ready().await;
        call(&second, "20.0.0.1:1").await;
        call(&first, "20.0.0.1:1").await;
        let all = series(&snapshotter);
        assert_eq!(all["verdicts_total[one,allow]"], 0.0);
        assert_eq!(all["verdicts_total[one,unresolved]"], 1.0);
        assert_eq!(all["verdicts_total[one-2,allow]"], 1.0);
        // The name can be used again once the list has been dropped.
        drop((first, _refresher));
        let _third = host().name("one").pair(answer);
        assert!(!series(&snapshotter).contains_key("verdicts_total[one-3,allow]"));
    });
}

#[test]
fn a_refused_server_that_is_listed_later_is_counted() {
    recorded(async |snapshotter| {
        let addresses = Arc::new(Mutex::new(vec!["20.0.0.1".parse().unwrap()]));
        let answers = Arc::clone(&addresses);
        let list = AllowList::builder()
            .host("a.test".parse().unwrap())
            .name("shop")
            .spawn(move |_: Question| {
                let addresses = answers.lock().unwrap().clone();
                std::future::ready(Ok(Answer::new(addresses, Duration::from_secs(60))))
            });
        list.ready().await;
        call(&list, "20.0.0.2:1").await;
        addresses.lock().unwrap().push("20.0.0.2".parse().unwrap());
        sleep(Duration::from_secs(62)).await;
        let all = series(&snapshotter);
        assert_eq!(all["refused_then_listed_total[shop]"], 1.0);
    });
}

#[cfg(all(feature = "axum", feature = "signature"))]
#[test]
fn messages_are_counted_by_verdict() {
    use callback_source::signature::{Token, VerifyTokenLayer};

    recorded(async |snapshotter| {
        let merchant =
            service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(String::new())));
        let layer = VerifyTokenLayer::rejecting(Token::new("token").unwrap());
        let service = layer.layer(merchant);
        for sent in [Some("token"), Some("token"), Some("another"), None] {
            let mut request = Request::new(());
            if let Some(sent) = sent {
                let headers = request.headers_mut();
                headers.insert("authorization", sent.parse().unwrap());
            }
            service.clone().oneshot(request).await.unwrap();
        }
        let all = series(&snapshotter);
        let counted =
            ["valid", "invalid", "missing"].map(|name| all[&format!("proofs_total[{name}]")]);
        assert_eq!(counted, [2.0, 1.0, 1.0]);
    });
}

#[cfg(all(feature = "axum", feature = "proxy-protocol", feature = "signature"))]
#[test]
fn there_are_at_most_forty_series_whatever_callers_and_dns_send() {
    use callback_source::{
        signature::{Secret, Secrets, Token, VerifySignatureLayer, VerifyTokenLayer},
        verify::proxy_protocol::ProxyProtocolListener,
    };
    use http_body_util::Full;

    recorded(async |snapshotter| {
        let kinds = Mutex::new([
            ResolveErrorKind::NxDomain,
            ResolveErrorKind::ErrorCode,
            ResolveErrorKind::Malformed,
            ResolveErrorKind::Truncated,
            ResolveErrorKind::Bogus,
            ResolveErrorKind::BrokenChain,
            ResolveErrorKind::Other,
        ]);
        let list = AllowList::builder()
            .host("a.test".parse().unwrap())
            .name("flooded")
            .spawn(move |_: Question| {
                let mut kinds = kinds.lock().unwrap();
                kinds.rotate_left(1);
                std::future::ready(Err(ResolveError::new(kinds[0])))
            });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _listener = ProxyProtocolListener::new(listener, TrustedProxies::none());
        let secrets = Secrets::from(Secret::new("secret").unwrap());
        let merchant =
            service_fn(async |_: Request<_>| Ok::<_, Infallible>(Response::new(String::new())));
        let signed = VerifySignatureLayer::rejecting(secrets).layer(merchant);
        let merchant =
            service_fn(async |_: Request<_>| Ok::<_, Infallible>(Response::new(String::new())));
        let token = Secrets::from(Token::new("token").unwrap());
        let with_token = VerifyTokenLayer::rejecting(token).layer(merchant);
        sleep(Duration::from_secs(3600)).await;
        for number in 0..200_u32 {
            call(&list, &format!("20.0.{}.{}:1", number / 200, number % 200)).await;
            let request = || {
                Request::post(format!("https://shop.example/{number}"))
                    .header("authorization", format!("HMAC-SHA256 {number}"))
                    .header("x-ms-date", format!("{number}"))
                    .header("webhook-id", format!("{number}"))
            };
            let body = Full::<bytes::Bytes>::default();
            signed
                .clone()
                .oneshot(request().body(body).unwrap())
                .await
                .unwrap();
            let request = request().body(()).unwrap();
            with_token.clone().oneshot(request).await.unwrap();
        }
        let all = series(&snapshotter);
        assert!(all.len() <= 40, "{} series: {all:#?}", all.len());
        assert!(all["verdicts_total[flooded,unresolved]"] >= 200.0);
    });
}
