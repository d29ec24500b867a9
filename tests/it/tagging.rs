//! Tests of the tagging layer, which passes on every request together with its verdict.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr},
};

use axum::{Router, http::HeaderMap, routing::any};
use callback_source::{
    AllowList, Allowed, Policy, RejectionKind, Verdict, VerifiedCallback,
    require::RequireVerifiedLayer,
    verify::{ConnectInfoPeer, SocketAddrPeer, VerifySourceLayer},
};
use callback_source_testkit::dns::{DnsServer, Fault, FaultScope, ResponseCode};
use http::{Request, Response};
use integration_tests::{
    http::Client,
    log::Log,
    merchant::{Merchant, tiny_list},
    within,
};
use tower::{Layer, ServiceExt, service_fn};

use crate::common::{HOST, ONE, TWO, UNLISTED, from};

#[tokio::test]
async fn the_handler_is_called_for_every_peer_with_the_verdict() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    dns.set(HOST, 60, &[ONE]);
    let list = tiny_list(&[HOST]).spawn(dns.resolver());
    within(list.ready()).await;
    let merchant = tagging(VerifySourceLayer::tagging(list, ConnectInfoPeer)).await?;

    let get = async |peer, path| {
        let client = Client::from(peer);
        within(client.send(merchant.addr(), "GET", path, &[], b"")).await
    };
    assert_eq!(
        get(ONE, "/verdict").await?.text(),
        "allow callback-1.example"
    );
    assert_eq!(get(UNLISTED, "/verdict").await?.text(), "reject not-listed");
    assert_eq!(get(ONE, "/allowed").await?.text(), "127.0.1.1");
    assert_eq!(get(ONE, "/perhaps").await?.text(), "yes");
    assert_eq!(get(UNLISTED, "/perhaps").await?.text(), "no");
    let reply = get(UNLISTED, "/allowed").await?;
    assert_eq!(reply.status, 403);
    assert_eq!(
        reply.header("content-type"),
        Some("text/plain; charset=utf-8")
    );
    Ok(())
}

#[tokio::test]
async fn the_extractor_answers_503_while_nothing_is_known() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    dns.set_fault(FaultScope::Everything, Fault::Rcode(ResponseCode::ServFail));
    let list = tiny_list(&[HOST]).spawn(dns.resolver());
    within(list.attempted()).await;
    let merchant = tagging(VerifySourceLayer::tagging(list, ConnectInfoPeer)).await?;

    let client = Client::from(ONE);
    let reply = within(client.send(merchant.addr(), "GET", "/allowed", &[], b"")).await?;
    assert_eq!(reply.status, 503);
    assert_eq!(reply.header("retry-after"), Some("5"));
    let reply = within(client.send(merchant.addr(), "GET", "/verdict", &[], b"")).await?;
    assert_eq!(reply.text(), "reject unresolved");
    Ok(())
}

#[tokio::test]
async fn a_route_without_the_layer_has_no_verdict_to_extract() -> io::Result<()> {
    let merchant = Merchant::serve(routes(), (Ipv4Addr::LOCALHOST, 0).into()).await?;
    let client = Client::from(ONE);
    for (path, status) in [("/allowed", 500), ("/verdict", 500), ("/perhaps", 200)] {
        let reply = within(client.send(merchant.addr(), "GET", path, &[], b"")).await?;
        assert_eq!(reply.status, status, "{path}");
        assert_ne!(reply.text(), "yes");
    }
    Ok(())
}

#[tokio::test]
async fn a_request_without_a_peer_is_tagged_too() {
    let log = Log::capture();
    let service = VerifySourceLayer::tagging(AllowList::fixed([ONE]), SocketAddrPeer)
        .with_tag_headers()
        .layer(seen());
    let response = service.oneshot(Request::new(())).await.unwrap_or_default();
    let seen = response.into_body();
    assert!(!seen.allowed);
    assert_eq!(seen.verdict, Some(Err(RejectionKind::NoPeer)));
    assert_eq!(seen.header("x-callback-reason"), ["no-peer"]);
    assert_eq!(log.lines("ERROR", &["SocketAddrPeer"]).len(), 1);
}

#[tokio::test]
async fn tags_that_a_client_sends_are_removed_in_every_spelling() {
    let list = AllowList::fixed([ONE]);
    let rejecting = VerifySourceLayer::rejecting(list.clone(), SocketAddrPeer).layer(seen());
    let tagging = VerifySourceLayer::tagging(list, SocketAddrPeer).layer(seen());

    for peer in [ONE, UNLISTED] {
        let response = tagging
            .clone()
            .oneshot(forged(peer))
            .await
            .unwrap_or_default();
        let headers = response.into_body().headers;
        assert_eq!(headers.len(), 1, "{headers:?}");
        assert!(headers.contains_key("kept"));
    }
    let response = rejecting.oneshot(forged(ONE)).await.unwrap_or_default();
    let headers = response.into_body().headers;
    assert_eq!(headers.len(), 1, "{headers:?}");
}

#[tokio::test]
async fn tag_headers_have_the_verdict_and_nothing_from_the_client() {
    let service = VerifySourceLayer::tagging(AllowList::fixed([ONE]), SocketAddrPeer)
        .with_tag_headers()
        .layer(seen());

    let response = service
        .clone()
        .oneshot(forged(ONE))
        .await
        .unwrap_or_default();
    let seen = response.into_body();
    assert_eq!(seen.header("x-callback-source"), ["allow"]);
    assert!(seen.header("x-callback-reason").is_empty());
    assert_eq!(seen.headers.len(), 2, "{:?}", seen.headers);

    let response = service.oneshot(forged(UNLISTED)).await.unwrap_or_default();
    let seen = response.into_body();
    assert_eq!(seen.header("x-callback-source"), ["reject"]);
    assert_eq!(seen.header("x-callback-reason"), ["not-listed"]);
    assert!(seen.header("x-callback-host").is_empty());
    assert_eq!(seen.headers.len(), 3, "{:?}", seen.headers);
}

#[tokio::test]
async fn tag_headers_name_the_callback_server() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    dns.set(HOST, 60, &[ONE]);
    let list = tiny_list(&[HOST]).spawn(dns.resolver());
    within(list.ready()).await;
    let service = VerifySourceLayer::tagging(list, SocketAddrPeer)
        .with_tag_headers()
        .layer(seen());
    let response = service.oneshot(forged(ONE)).await.unwrap_or_default();
    assert_eq!(response.into_body().header("x-callback-host"), [HOST]);
    Ok(())
}

#[tokio::test]
async fn an_inner_layer_removes_an_outer_verdict() {
    let a = AllowList::fixed([ONE]);
    let b = AllowList::fixed([TWO]);

    // The layer of list `a` tags the request, and the layer of list `b` refuses or admits it.
    let service = VerifySourceLayer::tagging(a.clone(), SocketAddrPeer)
        .with_tag_headers()
        .layer(VerifySourceLayer::rejecting(b.clone(), SocketAddrPeer).layer(seen()));
    let response = service.clone().oneshot(from(ONE)).await.unwrap_or_default();
    assert_eq!(response.status(), 403);
    let response = service.oneshot(from(TWO)).await.unwrap_or_default();
    let seen_inside = response.into_body();
    assert!(seen_inside.allowed);
    assert_eq!(seen_inside.verdict, Some(Ok(())), "that of B, not of A");
    assert!(seen_inside.headers.is_empty(), "{:?}", seen_inside.headers);

    // The layer of list `a` admits the request, and the layer of list `b` tags it.
    let service = VerifySourceLayer::rejecting(a.clone(), SocketAddrPeer)
        .layer(VerifySourceLayer::tagging(b.clone(), SocketAddrPeer).layer(seen()));
    let response = service.oneshot(from(ONE)).await.unwrap_or_default();
    let seen_inside = response.into_body();
    assert!(!seen_inside.allowed);
    assert_eq!(seen_inside.verdict, Some(Err(RejectionKind::NotListed)));

    // Both layers tag the request.
    let service = VerifySourceLayer::tagging(a, SocketAddrPeer)
        .with_tag_headers()
        .layer(
            VerifySourceLayer::tagging(b, SocketAddrPeer)
                .with_tag_headers()
                .layer(seen()),
        );
    let response = service.clone().oneshot(from(ONE)).await.unwrap_or_default();
    let seen_inside = response.into_body();
    assert!(!seen_inside.allowed);
    assert_eq!(seen_inside.header("x-callback-source"), ["reject"]);
    let response = service.oneshot(from(TWO)).await.unwrap_or_default();
    let seen_inside = response.into_body();
    assert!(seen_inside.allowed);
    assert_eq!(seen_inside.header("x-callback-source"), ["allow"]);
    assert!(seen_inside.header("x-callback-reason").is_empty());
}

#[tokio::test]
async fn an_inner_layer_removes_an_outer_verified_callback() {
    let verified = || {
        service_fn(async |request: Request<()>| {
            let is_verified = request.extensions().get::<VerifiedCallback>().is_some();
            Ok::<_, Infallible>(Response::new(is_verified.to_string()))
        })
    };
    let joined = || RequireVerifiedLayer::new(Policy::SourceOnly);
    let outer = || VerifySourceLayer::tagging(AllowList::fixed([ONE]), SocketAddrPeer);
    let both = || AllowList::fixed([ONE, TWO]);

    let service = outer().layer(joined().layer(verified()));
    let response = service.oneshot(from(ONE)).await.unwrap_or_default();
    assert_eq!(response.body(), "true");

    let tagging = VerifySourceLayer::tagging(AllowList::fixed([TWO]), SocketAddrPeer);
    let service = outer().layer(joined().layer(tagging.layer(verified())));
    let response = service.oneshot(from(ONE)).await.unwrap_or_default();
    assert_eq!(response.body(), "false");

    let rejecting = VerifySourceLayer::rejecting(both(), SocketAddrPeer);
    let service = outer().layer(joined().layer(rejecting.layer(verified())));
    let response = service.oneshot(from(ONE)).await.unwrap_or_default();
    assert_eq!(response.body(), "false");

    // A policy inside of the inner layer uses the verdict of that layer.
    let tagging = VerifySourceLayer::tagging(both(), SocketAddrPeer);
    let service = outer().layer(joined().layer(tagging.layer(joined().layer(verified()))));
    let response = service.oneshot(from(ONE)).await.unwrap_or_default();
    assert_eq!(response.body(), "true");
}

#[tokio::test]
async fn tagging_reports_what_it_would_have_refused() -> io::Result<()> {
    let log = Log::capture();
    let list = AllowList::fixed([ONE]);
    let merchant = tagging(VerifySourceLayer::tagging(list, ConnectInfoPeer)).await?;
    let client = Client::from(UNLISTED);
    within(client.send(merchant.addr(), "GET", "/verdict", &[], b"")).await?;
    let lines = log.lines("WARN", &["callback let through with a tag", "127.0.66.6"]);
    assert_eq!(lines.len(), 1);
    Ok(())
}

/// The request as an inner service sees it.
#[derive(Debug, Default)]
struct Seen {
    allowed: bool,
    verdict: Option<Result<(), RejectionKind>>,
    headers: HeaderMap,
}

impl Seen {
    fn header(&self, name: &str) -> Vec<&str> {
        let values = self.headers.get_all(name).iter();
        values.filter_map(|value| value.to_str().ok()).collect()
    }
}

impl From<&'static str> for Seen {
    fn from(_: &'static str) -> Self {
        Self::default()
    }
}

fn seen() -> impl tower::Service<
    Request<()>,
    Response = Response<Seen>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<Seen>, Infallible>>,
> + Clone {
    service_fn(async |request: Request<()>| {
        let verdict = request.extensions().get::<Verdict>();
        Ok(Response::new(Seen {
            allowed: verdict.is_some_and(Verdict::is_allowed),
            verdict: verdict.map(|verdict| match verdict {
                Verdict::Allow(_) => Ok(()),
                Verdict::Reject(rejection) => Err(rejection.kind()),
            }),
            headers: request.headers().clone(),
        }))
    })
}

fn routes() -> Router {
    Router::new()
        .route(
            "/verdict",
            any(async |verdict: Verdict| match verdict {
                Verdict::Allow(allowed) => format!(
                    "allow {}",
                    allowed.host().map(ToString::to_string).unwrap_or_default()
                ),
                Verdict::Reject(rejection) => format!("reject {}", rejection.kind().as_str()),
            }),
        )
        .route(
            "/allowed",
            any(async |allowed: Allowed| allowed.peer().to_string()),
        )
        .route(
            "/perhaps",
            any(async |allowed: Option<Allowed>| match allowed {
                Some(_) => "yes",
                None => "no",
            }),
        )
}

async fn tagging(layer: VerifySourceLayer<ConnectInfoPeer>) -> io::Result<Merchant> {
    Merchant::serve(routes().layer(layer), (Ipv4Addr::LOCALHOST, 0).into()).await
}

fn forged(peer: IpAddr) -> Request<()> {
    let mut request = from(peer);
    for name in [
        "x-callback-source",
        "X-Callback-Source",
        "x_callback_source",
        "X_CALLBACK-SOURCE",
        "x-callback_source",
        "x-callback-host",
        "x_callback_host",
        "x-callback-reason",
        "x_callback_reason",
        "x.callback.source",
        "X!Callback~Source",
        "x|callback'host",
        "x-callback`reason",
    ] {
        let name: http::HeaderName = name.parse().expect("it is a header");
        for value in ["allow", HOST] {
            let value = http::HeaderValue::from_static(value);
            request.headers_mut().append(name.clone(), value);
        }
    }
    let kept = http::HeaderValue::from_static("kept");
    request.headers_mut().insert("kept", kept);
    request
}
