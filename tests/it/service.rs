//! Tests of the layer together with other services: readiness, errors, and servers other than axum.

use std::{
    convert::Infallible,
    fmt::Debug,
    future::{Future, Ready, pending, ready},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use callback_source::{
    AllowList, Policy, Rejection, RejectionKind, Verdict,
    require::RequireVerifiedLayer,
    signature::{
        ReplayGuard, Secret, Secrets, Token, VerifySignatureLayer, VerifyTokenLayer, webhook,
    },
    verify::{ForwardedPeer, SocketAddrPeer, TrustedProxies, VerifySourceLayer},
};
use callback_source_testkit::{Outcome, ScriptedResolver};
use futures_util::FutureExt;
use http::{Extensions, HeaderMap, HeaderName, Method, Request, Response, StatusCode};
use http_body_util::Full;
use integration_tests::{merchant::tiny_list, within};
use tower::{
    Layer, Service, ServiceExt, buffer::Buffer, limit::ConcurrencyLimit, load_shed::LoadShed,
    service_fn, util::BoxCloneService,
};

use crate::common::{HOST, ONE, UNLISTED, from};

const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 9, 9));

#[tokio::test]
async fn a_service_that_is_not_ready_is_not_called() {
    let open = Arc::new(AtomicBool::new(false));
    let service = ReadyOnce {
        open: Arc::clone(&open),
        ready: false,
    };
    let mut service =
        VerifySourceLayer::rejecting(AllowList::fixed([ONE]), SocketAddrPeer).layer(service);

    assert!(service.ready().now_or_never().is_none());
    open.store(true, Ordering::SeqCst);
    let service = within(service.ready()).await.expect("it is open");
    let response = within(service.call(from(ONE))).await;
    assert_eq!(
        response.map(|response| response.status()),
        Ok(StatusCode::OK)
    );
}

#[tokio::test]
async fn an_error_of_readiness_passes_through() {
    let mut service =
        VerifySourceLayer::rejecting(AllowList::fixed([ONE]), SocketAddrPeer).layer(Broken);
    assert_eq!(service.ready().await.err(), Some("not ready, ever"));
}

#[tokio::test]
async fn an_error_of_the_service_passes_through() {
    let service = VerifySourceLayer::rejecting(AllowList::fixed([ONE]), SocketAddrPeer).layer(
        service_fn(async |_: Request<()>| Err::<Response<String>, _>("broken")),
    );
    assert_eq!(service.oneshot(from(ONE)).await.err(), Some("broken"));
}

#[tokio::test]
async fn the_service_that_was_found_ready_is_the_one_that_is_called() {
    let service = ReadyOnce::open();
    let mut service =
        VerifySourceLayer::rejecting(AllowList::fixed([ONE]), SocketAddrPeer).layer(service);
    for _ in 0..3 {
        let service = within(service.ready()).await.expect("it is open");
        let response = within(service.call(from(ONE))).await;
        assert_eq!(
            response.map(|response| response.status()),
            Ok(StatusCode::OK)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_ready_service_is_also_the_one_called_after_a_wait() {
    let resolver = ScriptedResolver::default();
    let then = Outcome::Answer(vec![ONE], Duration::from_secs(60));
    resolver.set_outcome(
        HOST,
        callback_source::Family::V4,
        Outcome::After(Duration::from_millis(300), Box::new(then)),
    );
    let list = tiny_list(&[HOST]).spawn(resolver);
    let mut service = VerifySourceLayer::rejecting(list, SocketAddrPeer).layer(ReadyOnce::open());

    // Two requests are in progress at the same time. The second request uses the service that replaced the service of
    // the first request.
    let first = within(service.ready())
        .await
        .expect("it is open")
        .call(from(ONE));
    let second = within(service.ready())
        .await
        .expect("it is open")
        .call(from(ONE));
    let (first, second) = within(async { tokio::join!(first, second) }).await;

    for response in [first, second] {
        assert_eq!(
            response.map(|response| response.status()),
            Ok(StatusCode::OK)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_after_a_wait_passes_through() {
    let resolver = ScriptedResolver::default();
    let then = Outcome::Answer(vec![ONE], Duration::from_secs(60));
    resolver.set_outcome(
        HOST,
        callback_source::Family::V4,
        Outcome::After(Duration::from_millis(300), Box::new(then)),
    );
    let list = tiny_list(&[HOST]).spawn(resolver);
    let service = VerifySourceLayer::rejecting(list, SocketAddrPeer).layer(service_fn(
        async |_: Request<()>| Err::<Response<String>, _>("broken"),
    ));
    assert_eq!(
        within(service.oneshot(from(ONE))).await.err(),
        Some("broken")
    );
}

#[tokio::test]
async fn a_plain_service_reads_the_peer_from_the_extensions() {
    let service =
        VerifySourceLayer::rejecting(AllowList::fixed([ONE]), SocketAddrPeer).layer(whoever());

    let response = service.clone().oneshot(from(ONE)).await;
    assert_eq!(
        response.map(Response::into_body),
        Ok("127.0.1.1".to_owned())
    );
    let response = service.clone().oneshot(from(UNLISTED)).await;
    assert_eq!(
        response.map(|response| response.status()),
        Ok(StatusCode::FORBIDDEN)
    );
    let response = service.oneshot(Request::new(())).await;
    let status = response.map(|response| response.status());
    assert_eq!(status, Ok(StatusCode::INTERNAL_SERVER_ERROR));
}

#[tokio::test]
async fn a_closure_can_choose_the_peer_s_address() {
    #[derive(Clone)]
    struct Connection(IpAddr);

    let peer = |_: &HeaderMap, extensions: &Extensions| {
        let connection = extensions.get::<Connection>();
        connection.map(|connection| connection.0)
    };
    let service = VerifySourceLayer::rejecting(AllowList::fixed([ONE]), peer).layer(whoever());
    let with = |peer| {
        let mut request = Request::new(());
        request.extensions_mut().insert(Connection(peer));
        request
    };

    let mapped = Ipv4Addr::new(127, 0, 1, 1).to_ipv6_mapped();
    for listed in [ONE, mapped.into()] {
        let response = service.clone().oneshot(with(listed)).await;
        assert_eq!(
            response.map(Response::into_body),
            Ok("127.0.1.1".to_owned())
        );
    }
    let response = service.clone().oneshot(with(UNLISTED)).await;
    assert_eq!(
        response.map(|response| response.status()),
        Ok(StatusCode::FORBIDDEN)
    );
    // The extension that `SocketAddrPeer` would read is ignored.
    let response = service.oneshot(from(ONE)).await;
    let status = response.map(|response| response.status());
    assert_eq!(status, Ok(StatusCode::INTERNAL_SERVER_ERROR));
}

#[tokio::test]
async fn a_closure_can_build_the_refusal() {
    let refusal = |rejection: &Rejection| {
        let text = format!(r#"{{"error":"{}"}}"#, rejection.kind().as_str());
        let mut response = Response::new(text);
        *response.status_mut() = StatusCode::IM_A_TEAPOT;
        response
    };
    let service = VerifySourceLayer::rejecting(AllowList::fixed([ONE]), SocketAddrPeer)
        .with_response(refusal)
        .layer(whoever());

    let response = within(service.clone().oneshot(from(UNLISTED))).await;
    let response = response.unwrap_or_default();
    assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
    assert_eq!(response.body(), r#"{"error":"not-listed"}"#);
    let response = service.oneshot(Request::new(())).await.unwrap_or_default();
    assert_eq!(response.body(), r#"{"error":"no-peer"}"#);
}

#[tokio::test(start_paused = true)]
async fn a_closure_also_builds_the_refusal_after_a_wait() {
    let resolver = ScriptedResolver::default();
    resolver.set_outcome(HOST, callback_source::Family::V4, Outcome::Pending);
    let list = tiny_list(&[HOST]).spawn(resolver);
    let service = VerifySourceLayer::rejecting(list, SocketAddrPeer)
        .with_response(|rejection: &Rejection| Response::new(rejection.kind().as_str().to_owned()))
        .layer(whoever());

    let response = within(service.oneshot(from(UNLISTED))).await;
    assert_eq!(
        response.map(Response::into_body),
        Ok("unresolved".to_owned())
    );
}

#[tokio::test]
async fn every_reason_of_a_refusal_has_an_error_status() {
    for kind in [
        RejectionKind::NotListed,
        RejectionKind::Unresolved,
        RejectionKind::NoPeer,
    ] {
        assert!(kind.status().is_client_error() || kind.status().is_server_error());
    }
}

#[tokio::test]
async fn an_empty_list_admits_no_peer() {
    for list in [
        AllowList::fixed([]),
        AllowList::builder().spawn(ScriptedResolver::default()),
    ] {
        for peer in [ONE, UNLISTED, "::1".parse().expect("it is one")] {
            let service =
                VerifySourceLayer::rejecting(list.clone(), SocketAddrPeer).layer(whoever());
            let response = within(service.oneshot(from(peer)))
                .await
                .unwrap_or_default();
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        }
        assert!(!list.is_ready());
    }
}

#[tokio::test]
async fn a_response_future_that_is_dropped_calls_nothing() {
    let called = Arc::new(AtomicUsize::new(0));
    let list = AllowList::builder()
        .host(HOST.parse().expect("it is a host"))
        .spawn(async |_| pending().await);
    let count = Arc::clone(&called);
    let mut service = VerifySourceLayer::rejecting(list, SocketAddrPeer).layer(service_fn(
        move |_: Request<()>| {
            count.fetch_add(1, Ordering::SeqCst);
            ready(Ok::<_, Infallible>(Response::new(String::new())))
        },
    ));
    let mut waiting = Box::pin(service.call(from(ONE)));
    assert!(waiting.as_mut().now_or_never().is_none());
    drop(waiting);
    assert_eq!(called.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn waiting_unlisted_peers_use_no_concurrency_of_listed_peers() {
    let resolver = ScriptedResolver::default();
    resolver.set(HOST, 3600, &["127.0.1.1"]);
    let list = tiny_list(&[HOST, "callback-2.example"])
        .on_demand_interval(Duration::from_secs(60))
        .spawn(resolver.clone());
    resolver.set_outcome(
        "callback-2.example",
        callback_source::Family::V4,
        Outcome::Pending,
    );
    let mut changes = list.changes();
    within(changes.next()).await;
    let inner = service_fn(|_: Request<()>| ready(Ok::<_, Infallible>(Response::new("done"))));
    let limited = ConcurrencyLimit::new(inner, 2);
    let service = VerifySourceLayer::rejecting(list, SocketAddrPeer).layer(limited);

    let mut waiting = Vec::new();
    for _ in 0..5 {
        let mut service = service.clone();
        let service = within(service.ready()).await.expect("there is room");
        let mut unlisted = Box::pin(service.call(from(UNLISTED)));
        assert!(unlisted.as_mut().now_or_never().is_none(), "it waits");
        waiting.push(unlisted);
    }
    let response = service.clone().oneshot(from(ONE)).now_or_never();
    let response = response.expect("at once").expect("it does not fail");
    assert_eq!(response.status(), StatusCode::OK);
}

/// Drives a service as a server does: polls the service until it is ready, and then calls it. The caller keeps the
/// service for the next request of the connection.
async fn drive<S, B>(service: &mut S, request: Request<B>) -> S::Future
where
    S: Service<Request<B>, Error: Debug>,
{
    within(service.ready())
        .await
        .expect("it is open")
        .call(request)
}

/// A service with one permit for all of its clones. `is_free` checks that permit.
type Limited = ConcurrencyLimit<BoxCloneService<Request<Body>, Response<Body>, Infallible>>;
type Body = Full<Bytes>;

fn limited() -> Limited {
    let inner = service_fn(async |_: Request<Body>| Ok(Response::new(Body::from("shipped"))));
    ConcurrencyLimit::new(BoxCloneService::new(inner), 1)
}

fn is_free(limited: &Limited) -> bool {
    limited.clone().ready().now_or_never().is_some()
}

fn delivery(secret: &str, peer: IpAddr) -> Request<Body> {
    let url = "https://shop.example/hooks".parse().expect("it is a URL");
    let secret = Secret::new(secret).expect("it is not empty");
    let signed = webhook::sign(&secret, &url, b"{}", SystemTime::now());
    let mut request = Request::new(Body::from("{}"));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = "/hooks".parse().expect("it is a path");
    *request.headers_mut() = signed.expect("it can be signed");
    request.extensions_mut().insert(SocketAddr::new(peer, 4711));
    request
}

fn with_header(name: &'static str, values: &[&'static str]) -> Request<Body> {
    let mut request = delivery("a", PROXY);
    for value in values {
        let value = http::HeaderValue::from_static(value);
        request.headers_mut().append(name, value);
    }
    request
}

/// Asserts that the only permit of the inner service is free after a refusal. The service is kept, as a server keeps it
/// for the connection.
async fn leaves_the_permit_free<S>(
    limited: &Limited,
    mut service: S,
    request: Request<Body>,
    status: u16,
) where
    S: Service<Request<Body>, Response = Response<Body>, Error: Debug>,
{
    assert!(is_free(limited));
    let future = drive(&mut service, request).await;
    assert!(is_free(limited), "{status}: before the response is made");
    let response = within(future).await.expect("it does not fail");
    assert_eq!(response.status(), status);
    assert!(is_free(limited), "{status}");
    drop(service);
}

#[tokio::test]
async fn a_refusal_by_source_keeps_no_permit() {
    let limited = limited();
    let list = || AllowList::fixed([ONE]);
    let refused = async |list, request, status| {
        let service = VerifySourceLayer::rejecting(list, SocketAddrPeer).layer(limited.clone());
        leaves_the_permit_free(&limited, service, request, status).await;
    };
    refused(list(), delivery("a", UNLISTED), 403).await;
    refused(AllowList::fixed([]), delivery("a", UNLISTED), 503).await;
    let mut no_peer = delivery("a", UNLISTED);
    no_peer.extensions_mut().clear();
    refused(list(), no_peer, 500).await;

    for (name, values) in [
        ("x-forwarded-for", &[][..]),
        ("x-forwarded-for", &["unknown"]),
        ("x-forwarded-for", &["127.0.9.9"]),
        ("x-real-ip", &["127.0.1.1", "127.0.1.1"]),
    ] {
        let proxies = TrustedProxies::new([PROXY.into()]).expect("it is one address");
        let header = HeaderName::from_static(name);
        let peer = ForwardedPeer::header(SocketAddrPeer, proxies, header);
        let service = VerifySourceLayer::rejecting(list(), peer).layer(limited.clone());
        leaves_the_permit_free(&limited, service, with_header(name, values), 400).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_after_an_on_demand_refresh_keeps_no_permit() {
    let resolver = ScriptedResolver::default();
    resolver.set_outcome(HOST, callback_source::Family::V4, Outcome::Pending);
    let list = tiny_list(&[HOST]).spawn(resolver);
    let limited = limited();
    let service = VerifySourceLayer::rejecting(list, SocketAddrPeer).layer(limited.clone());
    leaves_the_permit_free(&limited, service, delivery("a", UNLISTED), 503).await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_by_message_keeps_no_permit() {
    let limited = limited();
    let secret = || Secret::new("a").expect("it is not empty");
    let signed = || VerifySignatureLayer::rejecting(secret());
    let refused = async |layer: VerifySignatureLayer<Secret>, request, status| {
        let service = layer.layer(limited.clone());
        leaves_the_permit_free(&limited, service, request, status).await;
    };
    refused(signed(), Request::new(Body::from("{}")), 401).await;
    refused(signed(), delivery("b", ONE), 401).await;
    refused(signed(), delivery("a", ONE).map(|_| "[]".into()), 401).await;
    refused(signed().body_limit(1), delivery("a", ONE), 413).await;
    let guard = ReplayGuard::default();
    let guarded = || signed().replay_guard(guard.clone());
    let first = guarded().layer(limited.clone()).oneshot(delivery("a", ONE));
    assert_eq!(
        within(first).await.map(|first| first.status().as_u16()),
        Ok(200)
    );
    refused(guarded(), delivery("a", ONE), 409).await;
    // The secret never arrives. The permit is also free during the two seconds until the refusal.
    let silent = |_: Option<String>| pending::<Result<Secrets, Infallible>>();
    let service = VerifySignatureLayer::rejecting(silent).layer(limited.clone());
    leaves_the_permit_free(&limited, service, delivery("a", ONE), 503).await;

    let token = Token::new("a").expect("it is a token");
    let tokens = || VerifyTokenLayer::rejecting(token.clone()).layer(limited.clone());
    leaves_the_permit_free(&limited, tokens(), Request::default(), 401).await;
    leaves_the_permit_free(&limited, tokens(), delivery("a", ONE), 401).await;
    let silent = |_: Option<String>| pending::<Result<Secrets<Token>, Infallible>>();
    let service = VerifyTokenLayer::rejecting(silent).layer(limited.clone());
    leaves_the_permit_free(&limited, service, delivery("a", ONE), 503).await;
}

#[tokio::test]
async fn a_refusal_by_policy_keeps_no_permit() {
    let limited = limited();
    let secret = || Secret::new("a").expect("it is not empty");
    let joined = || RequireVerifiedLayer::new(Policy::Both).layer(limited.clone());
    let all = |list| {
        let signed = VerifySignatureLayer::tagging(secret()).layer(joined());
        VerifySourceLayer::tagging(list, SocketAddrPeer).layer(signed)
    };
    let known = || AllowList::fixed([ONE]);
    for (list, key, peer, status) in [
        (known(), "a", UNLISTED, 403),
        (known(), "b", ONE, 401),
        (AllowList::fixed([]), "a", ONE, 503),
    ] {
        leaves_the_permit_free(&limited, all(list), delivery(key, peer), status).await;
    }
    leaves_the_permit_free(&limited, joined(), delivery("a", ONE), 500).await;
    // The source layer only tags, so the policy itself refuses the request and must release the permit.
    let service = VerifySourceLayer::tagging(known(), SocketAddrPeer);
    let policy = RequireVerifiedLayer::new(Policy::SourceOnly).layer(limited.clone());
    leaves_the_permit_free(
        &limited,
        service.layer(policy),
        delivery("a", UNLISTED),
        403,
    )
    .await;
    let admitted = all(known()).oneshot(delivery("a", ONE));
    assert_eq!(
        within(admitted).await.map(|it| it.status().as_u16()),
        Ok(200)
    );
}

#[tokio::test]
async fn refused_peers_cause_no_shedding_or_queueing_of_a_listed_one() {
    let limited = limited();
    let layer = VerifySourceLayer::rejecting(AllowList::fixed([ONE]), SocketAddrPeer);

    // Ten connections share a concurrency limit of one. The last request of each connection was refused.
    let shedding = LoadShed::new(layer.layer(limited.clone()));
    let mut kept: Vec<_> = (0..10).map(|_| shedding.clone()).collect();
    for service in &mut kept {
        let refused = within(drive(service, delivery("a", UNLISTED)).await).await;
        assert_eq!(refused.map(|it| it.status().as_u16()).ok(), Some(403));
    }
    let admitted = within(shedding.clone().oneshot(delivery("a", ONE))).await;
    assert_eq!(admitted.map(|it| it.status().as_u16()).ok(), Some(200));

    // A buffer around the layer keeps one service for all connections.
    let buffered = Buffer::new(layer.layer(limited.clone()), 8);
    let refused = within(buffered.clone().oneshot(delivery("a", UNLISTED))).await;
    assert_eq!(refused.map(|it| it.status().as_u16()).ok(), Some(403));
    assert!(is_free(&limited));

    // A buffer inside of the layer has a queue of one request.
    let queue = Buffer::new(limited, 1);
    let layered = layer.layer(queue);
    let mut kept = layered.clone();
    let refused = within(drive(&mut kept, delivery("a", UNLISTED)).await).await;
    assert_eq!(refused.map(|it| it.status().as_u16()).ok(), Some(403));
    let admitted = within(layered.clone().oneshot(delivery("a", ONE))).await;
    assert_eq!(admitted.map(|it| it.status().as_u16()).ok(), Some(200));
}

/// A service that panics if it is called before it was ready. Its clones are not ready.
#[derive(Debug)]
struct ReadyOnce {
    open: Arc<AtomicBool>,
    ready: bool,
}

impl ReadyOnce {
    fn open() -> Self {
        Self {
            open: Arc::new(AtomicBool::new(true)),
            ready: false,
        }
    }
}

impl Clone for ReadyOnce {
    fn clone(&self) -> Self {
        Self {
            open: Arc::clone(&self.open),
            ready: false,
        }
    }
}

impl Service<Request<()>> for ReadyOnce {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.ready = self.open.load(Ordering::SeqCst);
        match self.ready {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        assert!(self.ready, "called before it was ready");
        self.ready = false;
        ready(Ok(Response::new(String::new())))
    }
}

#[derive(Clone)]
struct Broken;

impl Service<Request<()>> for Broken {
    type Response = Response<String>;
    type Error = &'static str;
    type Future = Ready<Result<Response<String>, &'static str>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        Poll::Ready(Err("not ready, ever"))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        unreachable!("it is not ready, ever")
    }
}

/// Returns a service that replies with the peer.
fn whoever() -> impl Service<
    Request<()>,
    Response = Response<String>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<String>, Infallible>>,
> + Clone {
    service_fn(async |request: Request<()>| {
        let verdict = request.extensions().get::<Verdict>();
        let allowed = verdict.and_then(Verdict::allowed);
        let peer = allowed.map(|allowed| allowed.peer().to_string());
        Ok(Response::new(peer.unwrap_or_default()))
    })
}
