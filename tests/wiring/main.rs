//! Tests of mistakes in the wiring of an axum service. At the first request that such a mistake affects, an ERROR event
//! names the mistake and the fix.
//!
//! These tests need a separate binary, since each such ERROR event is logged only once per process. Mistakes that are
//! detected earlier are in `tests/it/wiring.rs`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::{
    Router,
    body::Body,
    http::{Method, Request, StatusCode},
    routing::{get, post},
};
use callback_source::{
    AllowList, Allowed, CallbackRoutes, VerifiedCallback,
    verify::{ConnectInfoPeer, VerifySourceLayer},
};
use callback_source_testkit::{UNLISTED_PEER, set_peer};
use integration_tests::log::Log;
use tower::ServiceExt;

const LISTED: IpAddr = IpAddr::V4(Ipv4Addr::new(20, 0, 0, 1));

fn list() -> AllowList {
    AllowList::fixed([LISTED])
}

async fn status(app: &Router, method: Method, path: &str, peer: IpAddr) -> StatusCode {
    let request = Request::builder().method(method).uri(path);
    let mut request = request.body(Body::empty()).unwrap();
    set_peer(&mut request, peer);
    app.clone().oneshot(request).await.unwrap().status()
}

#[tokio::test]
async fn a_handler_that_takes_allowed_outside_of_the_layer_logs_an_error() {
    let log = Log::capture();
    let app = Router::new()
        .layer(VerifySourceLayer::rejecting(list(), ConnectInfoPeer))
        // This route is added after the layer, so the layer does not wrap the route.
        .route("/payments", post(async |_: Allowed| "never"));
    for _ in 0..2 {
        let refused = status(&app, Method::POST, "/payments", LISTED).await;
        assert_eq!(refused, StatusCode::INTERNAL_SERVER_ERROR);
    }
    let errors = log.lines("ERROR", &["takes `Allowed`", "`CallbackRoutes`"]);
    assert_eq!(errors.len(), 1, "{errors:?}");
}

#[tokio::test]
async fn a_handler_that_takes_a_verified_callback_without_a_message_check_logs_an_error() {
    let log = Log::capture();
    let routes = Router::new().route("/payments", post(async |_: VerifiedCallback| "never"));
    let app = Router::from(CallbackRoutes::rejecting(routes, list(), ConnectInfoPeer));
    let refused = status(&app, Method::POST, "/payments", LISTED).await;
    assert_eq!(refused, StatusCode::INTERNAL_SERVER_ERROR);
    let errors = log.lines("ERROR", &["`CallbackRoutes` with `signature` or `token`"]);
    assert_eq!(errors.len(), 1, "{errors:?}");
}

#[tokio::test]
async fn a_probe_behind_a_layer_around_everything_logs_an_error() {
    let log = Log::capture();
    let app = Router::new()
        .route("/health", get(async || "up"))
        .layer(VerifySourceLayer::rejecting(list(), ConnectInfoPeer));
    // The peer of the first request is not local, and the second request is not a `GET`.
    let refused = status(&app, Method::GET, "/health", UNLISTED_PEER).await;
    assert_eq!(refused, StatusCode::FORBIDDEN);
    let local = IpAddr::from([10, 0, 0, 7]);
    status(&app, Method::POST, "/health", local).await;
    assert!(log.lines("ERROR", &[]).is_empty());
    let node = IpAddr::from([10, 0, 0, 8]);
    let refused = status(&app, Method::GET, "/health", node).await;
    assert_eq!(refused, StatusCode::FORBIDDEN);
    let errors = log.lines("ERROR", &["peer=10.0.0.8", "health probe"]);
    assert_eq!(errors.len(), 1, "{errors:?}");
}

#[tokio::test]
async fn another_version_of_axum_logs_an_error_that_names_the_closure() {
    use axum_0_7::{Router, body::Body, extract::ConnectInfo, http, routing::post};

    let log = Log::capture();
    let request = || {
        let mut request = Request::post("/").body(Body::empty()).unwrap();
        // The `into_make_service_with_connect_info` of axum 0.7 does the same.
        let peer = SocketAddr::new(LISTED, 4711);
        request.extensions_mut().insert(ConnectInfo(peer));
        request
    };
    let app = Router::new().route("/", post(|| async { "received" }));
    let blind = app
        .clone()
        .layer(VerifySourceLayer::rejecting(list(), ConnectInfoPeer));
    let response = blind.oneshot(request()).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let errors = log.lines("ERROR", &["axum 0.8 only", "closure"]);
    assert_eq!(errors.len(), 1, "{errors:?}");

    let peer = |_: &http::HeaderMap, extensions: &http::Extensions| {
        let info = extensions.get::<ConnectInfo<SocketAddr>>();
        info.map(|ConnectInfo(peer)| peer.ip())
    };
    let app = app.layer(VerifySourceLayer::rejecting(list(), peer));
    let response = app.oneshot(request()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}
