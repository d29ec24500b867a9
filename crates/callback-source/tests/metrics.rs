//! The metrics for a merchant's dashboard.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use callback_source::{
    AllowList, Answer, Family, Question, ResolveError, ResolveErrorKind,
    verify::{ForwardedPeer, SocketAddrPeer, TrustedProxies, VerifySourceLayer},
};
use http::{Request, Response};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tower::{Layer, ServiceExt, service_fn};

#[tokio::test(start_paused = true)]
async fn verdicts_lookups_and_the_set_are_counted() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    recorder.install().unwrap();

    let resolver = async |question: Question| match (question.host.as_str(), question.family) {
        ("a.test", Family::V4) => Ok(Answer::new(
            ["20.0.0.1".parse().unwrap()],
            Duration::from_secs(60),
        )),
        (_, Family::V4) => Err(ResolveError::new(ResolveErrorKind::ServFail)),
        (_, Family::V6) => Err(ResolveError::new(ResolveErrorKind::NoData)),
    };
    let hosts = ["a.test", "b.test"].map(|host| host.parse().unwrap());
    let list = AllowList::builder().hosts(hosts).spawn(resolver);
    list.attempted().await;

    let merchant = |_: Request<()>| async { Ok::<_, Infallible>(Response::new("")) };
    let merchant = service_fn(merchant);
    let proxies = TrustedProxies::new(["10.0.0.7/32".parse().unwrap()]).unwrap();
    let peer = ForwardedPeer::x_forwarded_for(SocketAddrPeer, proxies);
    let proxied = VerifySourceLayer::rejecting(list.clone(), peer).layer(merchant);
    let service = VerifySourceLayer::rejecting(list, SocketAddrPeer).layer(merchant);
    for peer in ["20.0.0.1:1", "20.0.0.1:2", "20.0.9.9:1", ""] {
        let mut request = Request::new(());
        if let Ok(peer) = peer.parse::<SocketAddr>() {
            request.extensions_mut().insert(peer);
        }
        service.clone().oneshot(request).await.unwrap();
    }
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

    let mut seen: Vec<_> = snapshotter
        .snapshot()
        .into_vec()
        .into_iter()
        .map(|(key, _, _, value)| {
            let (name, labels) = key.key().clone().into_parts();
            let labels: Vec<_> = labels
                .iter()
                .map(|label| label.value().to_owned())
                .collect();
            let value = match value {
                DebugValue::Counter(count) => count.to_string(),
                DebugValue::Gauge(gauge) => gauge.to_string(),
                DebugValue::Histogram(_) => panic!("no metric is a histogram"),
            };
            format!("{}[{}] {value}", name.as_str(), labels.join(","))
        })
        .collect();
    seen.sort_unstable();
    assert_eq!(
        seen,
        [
            "callback_source_addresses[] 1",
            "callback_source_changes_total[] 1",
            "callback_source_lookups_total[answer] 1",
            "callback_source_lookups_total[no-data] 2",
            "callback_source_lookups_total[servfail] 1",
            "callback_source_oldest_answer_age_seconds[] 0",
            "callback_source_verdicts_total[all-trusted] 1",
            "callback_source_verdicts_total[allow] 2",
            "callback_source_verdicts_total[forwarded-malformed] 1",
            "callback_source_verdicts_total[forwarded-missing] 1",
            "callback_source_verdicts_total[no-peer] 1",
            "callback_source_verdicts_total[unresolved] 1",
        ]
    );
}
