//! The layer among other services: readiness, errors, and servers other than axum.

use std::{
    convert::Infallible,
    future::{Future, Ready, pending, ready},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use callback_source::{
    AllowList, Allowed, Rejection, RejectionKind,
    verify::{SocketPeer, VerifySourceLayer},
};
use futures_util::FutureExt;
use http::{Extensions, HeaderMap, Request, Response, StatusCode};
use integration_tests::{
    merchant::tiny_list,
    script::{Line, Script},
    within,
};
use tower::{Layer, Service, ServiceExt, service_fn};

const HOST: &str = "callback-1.example";
const LISTED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 1, 1));
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 66, 6));

#[tokio::test]
async fn a_service_that_is_not_ready_is_not_called() {
    let open = Arc::new(AtomicBool::new(false));
    let gate = Gate {
        open: Arc::clone(&open),
        ready: false,
    };
    let mut service =
        VerifySourceLayer::rejecting(AllowList::fixed([LISTED]), SocketPeer).layer(gate);

    assert!(service.ready().now_or_never().is_none());
    open.store(true, Ordering::SeqCst);
    let service = within(service.ready()).await.expect("it is open");
    let response = within(service.call(from(LISTED))).await;
    assert_eq!(
        response.map(|response| response.status()),
        Ok(StatusCode::OK)
    );
}

#[tokio::test]
async fn an_error_of_readiness_passes_through() {
    let mut service =
        VerifySourceLayer::rejecting(AllowList::fixed([LISTED]), SocketPeer).layer(Broken);
    assert_eq!(service.ready().await.err(), Some("not ready, ever"));
}

#[tokio::test]
async fn an_error_of_the_service_passes_through() {
    let service = VerifySourceLayer::rejecting(AllowList::fixed([LISTED]), SocketPeer).layer(
        service_fn(async |_: Request<()>| Err::<Response<String>, _>("broken")),
    );
    assert_eq!(service.oneshot(from(LISTED)).await.err(), Some("broken"));
}

#[tokio::test]
async fn the_service_that_was_found_ready_is_the_one_that_is_called() {
    let gate = Gate::open();
    let mut service =
        VerifySourceLayer::rejecting(AllowList::fixed([LISTED]), SocketPeer).layer(gate);
    for _ in 0..3 {
        let service = within(service.ready()).await.expect("it is open");
        let response = within(service.call(from(LISTED))).await;
        assert_eq!(
            response.map(|response| response.status()),
            Ok(StatusCode::OK)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn it_is_also_the_one_that_is_called_after_a_wait() {
    let script = Script::default();
    let then = Line::Addresses(vec![LISTED], Duration::from_secs(60));
    script.line(
        HOST,
        callback_source::Family::V4,
        Line::After(Duration::from_millis(300), Box::new(then)),
    );
    let list = tiny_list(&[HOST]).spawn(script);
    let mut service = VerifySourceLayer::rejecting(list, SocketPeer).layer(Gate::open());

    // Two at a time, so that the second finds what the first left behind.
    let first = within(service.ready())
        .await
        .expect("it is open")
        .call(from(LISTED));
    let second = within(service.ready())
        .await
        .expect("it is open")
        .call(from(LISTED));
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
    let script = Script::default();
    let then = Line::Addresses(vec![LISTED], Duration::from_secs(60));
    script.line(
        HOST,
        callback_source::Family::V4,
        Line::After(Duration::from_millis(300), Box::new(then)),
    );
    let list = tiny_list(&[HOST]).spawn(script);
    let service =
        VerifySourceLayer::rejecting(list, SocketPeer).layer(service_fn(async |_: Request<()>| {
            Err::<Response<String>, _>("broken")
        }));
    assert_eq!(
        within(service.oneshot(from(LISTED))).await.err(),
        Some("broken")
    );
}

#[tokio::test]
async fn a_plain_service_takes_the_peer_from_the_extensions() {
    let service =
        VerifySourceLayer::rejecting(AllowList::fixed([LISTED]), SocketPeer).layer(whoever());

    let response = service.clone().oneshot(from(LISTED)).await;
    assert_eq!(
        response.map(Response::into_body),
        Ok("127.0.1.1".to_owned())
    );
    let response = service.clone().oneshot(from(STRANGER)).await;
    assert_eq!(
        response.map(|response| response.status()),
        Ok(StatusCode::FORBIDDEN)
    );
    let response = service.oneshot(Request::new(())).await;
    let status = response.map(|response| response.status());
    assert_eq!(status, Ok(StatusCode::INTERNAL_SERVER_ERROR));
}

#[tokio::test]
async fn a_closure_can_say_whose_address_counts() {
    #[derive(Clone)]
    struct Connection(IpAddr);

    let peer = |_: &HeaderMap, extensions: &Extensions| {
        let connection = extensions.get::<Connection>();
        connection.map(|connection| connection.0)
    };
    let service = VerifySourceLayer::rejecting(AllowList::fixed([LISTED]), peer).layer(whoever());
    let with = |peer| {
        let mut request = Request::new(());
        request.extensions_mut().insert(Connection(peer));
        request
    };

    let mapped = Ipv4Addr::new(127, 0, 1, 1).to_ipv6_mapped();
    for listed in [LISTED, mapped.into()] {
        let response = service.clone().oneshot(with(listed)).await;
        assert_eq!(
            response.map(Response::into_body),
            Ok("127.0.1.1".to_owned())
        );
    }
    let response = service.clone().oneshot(with(STRANGER)).await;
    assert_eq!(
        response.map(|response| response.status()),
        Ok(StatusCode::FORBIDDEN)
    );
    // What another source would take does not count.
    let response = service.oneshot(from(LISTED)).await;
    let status = response.map(|response| response.status());
    assert_eq!(status, Ok(StatusCode::INTERNAL_SERVER_ERROR));
}

#[tokio::test]
async fn a_closure_can_make_the_refusal() {
    let refusal = |rejection: &Rejection| {
        let text = format!(r#"{{"error":"{}"}}"#, rejection.kind().as_str());
        let mut response = Response::new(text);
        *response.status_mut() = StatusCode::IM_A_TEAPOT;
        response
    };
    let service = VerifySourceLayer::rejecting(AllowList::fixed([LISTED]), SocketPeer)
        .with_response(refusal)
        .layer(whoever());

    let response = within(service.clone().oneshot(from(STRANGER))).await;
    let response = response.unwrap_or_default();
    assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
    assert_eq!(response.body(), r#"{"error":"not-listed"}"#);
    let response = service.oneshot(Request::new(())).await.unwrap_or_default();
    assert_eq!(response.body(), r#"{"error":"no-peer"}"#);
}

#[tokio::test(start_paused = true)]
async fn the_refusal_after_a_wait_is_made_the_same_way() {
    let script = Script::default();
    script.line(HOST, callback_source::Family::V4, Line::Never);
    let list = tiny_list(&[HOST]).spawn(script);
    let service = VerifySourceLayer::rejecting(list, SocketPeer)
        .with_response(|rejection: &Rejection| Response::new(rejection.kind().as_str().to_owned()))
        .layer(whoever());

    let response = within(service.oneshot(from(STRANGER))).await;
    assert_eq!(
        response.map(Response::into_body),
        Ok("unresolved".to_owned())
    );
}

#[tokio::test]
async fn no_reason_to_refuse_is_answered_with_success() {
    for kind in [
        RejectionKind::NotListed,
        RejectionKind::Unresolved,
        RejectionKind::NoPeer,
    ] {
        assert!(kind.status().is_client_error() || kind.status().is_server_error());
    }
}

#[tokio::test]
async fn an_empty_list_admits_nobody() {
    for list in [
        AllowList::fixed([]),
        AllowList::builder().spawn(Script::default()),
    ] {
        for peer in [LISTED, STRANGER, "::1".parse().expect("it is one")] {
            let service = VerifySourceLayer::rejecting(list.clone(), SocketPeer).layer(whoever());
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
    let mut service =
        VerifySourceLayer::rejecting(list, SocketPeer).layer(service_fn(move |_: Request<()>| {
            count.fetch_add(1, Ordering::SeqCst);
            ready(Ok::<_, Infallible>(Response::new(String::new())))
        }));
    let mut waiting = Box::pin(service.call(from(LISTED)));
    assert!(waiting.as_mut().now_or_never().is_none());
    drop(waiting);
    assert_eq!(called.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn strangers_that_wait_take_no_place_from_listed_peers() {
    let script = Script::default();
    script.set(HOST, 3600, &["127.0.1.1"]);
    let list = tiny_list(&[HOST, "callback-2.example"])
        .recheck_interval(Duration::from_secs(60))
        .spawn(script.clone());
    script.line(
        "callback-2.example",
        callback_source::Family::V4,
        Line::Never,
    );
    let mut changes = list.changes();
    within(changes.next()).await;
    let inner = service_fn(|_: Request<()>| ready(Ok::<_, Infallible>(Response::new("done"))));
    let limited = tower::limit::ConcurrencyLimit::new(inner, 2);
    let service = VerifySourceLayer::rejecting(list, SocketPeer).layer(limited);

    let mut waiting = Vec::new();
    for _ in 0..5 {
        let mut service = service.clone();
        let service = within(service.ready()).await.expect("there is room");
        let mut stranger = Box::pin(service.call(from(STRANGER)));
        assert!(stranger.as_mut().now_or_never().is_none(), "it waits");
        waiting.push(stranger);
    }
    let response = service.clone().oneshot(from(LISTED)).now_or_never();
    let response = response.expect("at once").expect("it does not fail");
    assert_eq!(response.status(), StatusCode::OK);
}

/// Panics when it is called without having been found ready; readiness is not cloned.
#[derive(Debug)]
struct Gate {
    open: Arc<AtomicBool>,
    ready: bool,
}

impl Gate {
    fn open() -> Self {
        Self {
            open: Arc::new(AtomicBool::new(true)),
            ready: false,
        }
    }
}

impl Clone for Gate {
    fn clone(&self) -> Self {
        Self {
            open: Arc::clone(&self.open),
            ready: false,
        }
    }
}

impl Service<Request<()>> for Gate {
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
        assert!(self.ready, "called without having been found ready");
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

/// Says who called.
fn whoever() -> impl Service<
    Request<()>,
    Response = Response<String>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<String>, Infallible>>,
> + Clone {
    service_fn(async |request: Request<()>| {
        let allowed = request.extensions().get::<Allowed>();
        let peer = allowed.map(|allowed| allowed.peer().to_string());
        Ok(Response::new(peer.unwrap_or_default()))
    })
}

fn from(peer: IpAddr) -> Request<()> {
    let mut request = Request::new(());
    request.extensions_mut().insert(SocketAddr::new(peer, 4711));
    request
}
