//! Tests of mistakes in the wiring of an axum service. `CallbackRoutes` makes them impossible, or rejects them when the
//! app is built.
//!
//! Mistakes that are detected only at a request are in `tests/wiring`.

use std::net::{IpAddr, Ipv4Addr};

use axum::{
    Router,
    body::Body,
    http::{Method, Request, StatusCode, header},
    response::Response,
    routing::{get, post},
};
use callback_source::{
    AllowList, Allowed, CallbackRoutes, Policy, Verdict, VerifiedCallback,
    signature::{ReplayGuard, Secret, Token, VerifySignatureLayer, VerifyTokenLayer},
    verify::{ConnectInfoPeer, VerifySourceLayer},
};
use callback_source_testkit::{Delivery, UNLISTED_PEER, set_peer};
use http_body_util::BodyExt;
use integration_tests::{http::Connection, merchant::Merchant};
use tower::ServiceExt;

const LISTED: IpAddr = IpAddr::V4(Ipv4Addr::new(20, 0, 0, 1));
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(20, 0, 0, 2));

fn list() -> AllowList {
    AllowList::fixed([LISTED])
}

fn secret() -> Secret {
    Secret::new("of the registration").unwrap()
}

fn request(method: Method, path: &str, peer: IpAddr) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    request = request.header(header::HOST, "shop.example");
    let mut request = request.body(Body::empty()).unwrap();
    set_peer(&mut request, peer);
    request
}

async fn send(app: &Router, request: Request<Body>) -> (StatusCode, String) {
    let response = app.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn status(app: &Router, method: Method, path: &str, peer: IpAddr) -> StatusCode {
    send(app, request(method, path, peer)).await.0
}

/// Returns a shop with a page, a probe and its own 404. `add` adds the callbacks.
fn shop(add: impl FnOnce(Router) -> Router) -> Router {
    let shop = Router::new()
        .route("/", get(async || "the shop"))
        .route("/health", get(async || "up"));
    add(shop).fallback(async || (StatusCode::NOT_FOUND, "the shop has no such page"))
}

/// Returns routes with callbacks at `/payments`.
fn payments() -> Router {
    Router::new().route("/payments", post(async || "received"))
}

async fn assert_shop_is_untouched(app: &Router, prefix: &str) {
    for peer in [LISTED, UNLISTED_PEER, Ipv4Addr::LOCALHOST.into()] {
        for path in ["/", "/health"] {
            assert_eq!(
                status(app, Method::GET, path, peer).await,
                StatusCode::OK,
                "{path}"
            );
        }
        for path in ["/none", "/paymentsx", &format!("{prefix}/none")] {
            let (status, body) = send(app, request(Method::POST, path, peer)).await;
            assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
            assert_eq!(body, "the shop has no such page", "{path}");
        }
        let not_get = status(app, Method::POST, "/health", peer).await;
        assert_eq!(not_get, StatusCode::METHOD_NOT_ALLOWED);
    }
}

#[tokio::test]
async fn nothing_outside_of_merged_or_nested_callback_routes_is_touched() {
    let callbacks = || CallbackRoutes::rejecting(payments(), list(), ConnectInfoPeer);
    for (prefix, app) in [
        ("", shop(|shop| shop.merge(callbacks()))),
        (
            "/vipps",
            shop(|shop| shop.nest("/vipps", callbacks().into())),
        ),
        ("", Router::from(callbacks()).merge(shop(|shop| shop))),
    ] {
        assert_shop_is_untouched(&app, prefix).await;
        let path = format!("{prefix}/payments");
        assert_eq!(
            status(&app, Method::POST, &path, LISTED).await,
            StatusCode::OK
        );
        for peer in [UNLISTED_PEER, OTHER] {
            let refused = status(&app, Method::POST, &path, peer).await;
            assert_eq!(refused, StatusCode::FORBIDDEN, "{path}");
        }
    }
}

#[tokio::test]
async fn a_method_without_a_handler_is_checked_before_it_gets_405() {
    let app = shop(|shop| {
        shop.merge(CallbackRoutes::rejecting(
            payments(),
            list(),
            ConnectInfoPeer,
        ))
    });
    for method in [Method::GET, Method::HEAD, Method::PUT, Method::OPTIONS] {
        let refused = status(&app, method.clone(), "/payments", UNLISTED_PEER).await;
        assert_eq!(refused, StatusCode::FORBIDDEN, "{method}");
        let listed = status(&app, method.clone(), "/payments", LISTED).await;
        assert_eq!(listed, StatusCode::METHOD_NOT_ALLOWED, "{method}");
    }
}

#[tokio::test]
async fn two_callback_routes_in_one_app_do_not_affect_each_other() {
    let app = shop(|shop| {
        shop.merge(CallbackRoutes::rejecting(
            payments(),
            list(),
            ConnectInfoPeer,
        ))
        .merge(CallbackRoutes::rejecting(
            Router::new().route("/webhooks", post(async || "received")),
            AllowList::fixed([OTHER]),
            ConnectInfoPeer,
        ))
    });
    assert_shop_is_untouched(&app, "").await;
    for (path, peer, expected) in [
        ("/payments", LISTED, StatusCode::OK),
        ("/payments", OTHER, StatusCode::FORBIDDEN),
        ("/webhooks", LISTED, StatusCode::FORBIDDEN),
        ("/webhooks", OTHER, StatusCode::OK),
    ] {
        let found = status(&app, Method::POST, path, peer).await;
        assert_eq!(found, expected, "{path} {peer}");
    }
}

#[tokio::test]
async fn nested_routers_and_services_in_callback_routes_are_checked() {
    let inner = Router::new()
        .route("/deep", post(async || "received"))
        .nest_service("/service", payments())
        .route("/{*path}", post(async || "received"));
    let callbacks = Router::new().nest("/vipps", inner);
    let app = shop(|shop| {
        shop.merge(CallbackRoutes::rejecting(
            callbacks,
            list(),
            ConnectInfoPeer,
        ))
    });
    for path in [
        "/vipps/deep",
        "/vipps/service/payments",
        "/vipps/service/none",
        "/vipps/any",
    ] {
        let refused = status(&app, Method::POST, path, UNLISTED_PEER).await;
        assert_eq!(refused, StatusCode::FORBIDDEN, "{path}");
        let listed = status(&app, Method::POST, path, LISTED).await;
        assert_ne!(listed, StatusCode::FORBIDDEN, "{path}");
    }
}

/// Once callback routes have become a router of axum, added routes are not checked.
#[tokio::test]
async fn a_route_that_is_added_to_the_app_belongs_to_the_app() {
    let callbacks = CallbackRoutes::rejecting(payments(), list(), ConnectInfoPeer);
    let app = Router::from(callbacks)
        .route("/payments", get(async || "of the shop"))
        .route("/late", post(async |_: Allowed| "never"));
    let page = send(&app, request(Method::GET, "/payments", UNLISTED_PEER)).await;
    assert_eq!(page, (StatusCode::OK, "of the shop".to_owned()));
    let callback = status(&app, Method::POST, "/payments", UNLISTED_PEER).await;
    assert_eq!(callback, StatusCode::FORBIDDEN);
    // The added route is not checked, but the extractor refuses the request as a second safeguard.
    let late = status(&app, Method::POST, "/late", LISTED).await;
    assert_eq!(late, StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn an_app_s_own_405_handler_admits_nobody_to_a_callback() {
    let app = shop(|shop| {
        shop.merge(CallbackRoutes::rejecting(
            payments(),
            list(),
            ConnectInfoPeer,
        ))
        .method_not_allowed_fallback(async || (StatusCode::METHOD_NOT_ALLOWED, "of the shop"))
    });
    let callback = status(&app, Method::POST, "/payments", UNLISTED_PEER).await;
    assert_eq!(callback, StatusCode::FORBIDDEN);
}

#[test]
#[should_panic(expected = "there is no route to check")]
fn callback_routes_without_a_route_are_refused_when_building() {
    let _ = CallbackRoutes::<_>::rejecting(Router::new(), list(), ConnectInfoPeer);
}

#[test]
#[should_panic(expected = "that both have a fallback")]
fn callback_routes_with_a_fallback_are_refused_when_building() {
    let routes = payments().fallback(async || "unchecked");
    let _ = CallbackRoutes::rejecting(routes, list(), ConnectInfoPeer);
}

#[test]
#[should_panic(expected = "a nested router has a fallback")]
fn callback_routes_with_a_fallback_in_a_nested_router_are_refused_when_building() {
    let nested = payments().fallback(async || "unchecked");
    let routes = Router::new().nest("/vipps", nested);
    let _ = CallbackRoutes::rejecting(routes, list(), ConnectInfoPeer);
}

#[tokio::test]
async fn routes_in_the_syntax_of_axum_0_7_keep_their_meaning() {
    let routes = Router::new()
        .without_v07_checks()
        .route("/:literal", post(async || "received"));
    let app = Router::from(CallbackRoutes::rejecting(routes, list(), ConnectInfoPeer));
    let found = status(&app, Method::POST, "/:literal", LISTED).await;
    assert_eq!(found, StatusCode::OK);
}

#[tokio::test]
async fn routes_with_a_state_are_checked() {
    let routes = Router::new().route(
        "/payments",
        post(async |axum::extract::State(text): axum::extract::State<&'static str>| text),
    );
    let app = Router::new()
        .merge(CallbackRoutes::rejecting(routes, list(), ConnectInfoPeer))
        .with_state("of the state");
    let received = send(&app, request(Method::POST, "/payments", LISTED)).await;
    assert_eq!(received, (StatusCode::OK, "of the state".to_owned()));
    let refused = status(&app, Method::POST, "/payments", UNLISTED_PEER).await;
    assert_eq!(refused, StatusCode::FORBIDDEN);
}

/// Kinds of deliveries, as `(listed, signed)`.
const DELIVERIES: [(bool, bool); 4] = [(true, true), (true, false), (false, true), (false, false)];

async fn statuses_of_deliveries(app: &Router, path: &str) -> [u16; 4] {
    let url = format!("https://shop.example{path}");
    let mut statuses = [0; 4];
    for (status, (listed, signed)) in statuses.iter_mut().zip(DELIVERIES) {
        let mut delivery =
            Delivery::new(&url).from_peer(if listed { LISTED } else { UNLISTED_PEER });
        if signed {
            // Signed deliveries have different bodies. Otherwise, the guard would refuse the second one as a replay.
            delivery = delivery
                .body(if listed { "listed" } else { "unlisted" })
                .signed(&secret());
        }
        *status = send(app, delivery.request()).await.0.as_u16();
    }
    statuses
}

#[tokio::test]
async fn each_policy_of_callback_routes_decides_as_in_its_table() {
    for (policy, expected) in [
        (Policy::Both, [200, 401, 403, 403]),
        (Policy::MessageWarnOnSource, [200, 401, 200, 401]),
        (Policy::SourceOnly, [200, 200, 403, 403]),
        (Policy::MessageOnly, [200, 401, 200, 401]),
    ] {
        // The mode of the layer does not change the result.
        for layer in [
            VerifySignatureLayer::rejecting(secret()),
            VerifySignatureLayer::tagging(secret()),
        ] {
            let routes = Router::new().route("/webhooks", post(async |_: VerifiedCallback| "ok"));
            let routes = CallbackRoutes::rejecting(routes, list(), ConnectInfoPeer)
                .signature(policy, layer.replay_guard(ReplayGuard::default()));
            let app = shop(|shop| shop.nest("/vipps", routes.into()));
            let found = statuses_of_deliveries(&app, "/vipps/webhooks").await;
            assert_eq!(found, expected, "{policy}");
            assert_shop_is_untouched(&app, "/vipps").await;
        }
    }
}

#[tokio::test]
async fn a_token_is_checked_after_the_source() {
    let token = VerifyTokenLayer::rejecting(Token::new("s3cret").unwrap());
    let routes =
        CallbackRoutes::rejecting(payments(), list(), ConnectInfoPeer).token(Policy::Both, token);
    let app = shop(|shop| shop.merge(routes));
    for (peer, token, expected) in [
        (LISTED, "s3cret", StatusCode::OK),
        (LISTED, "guess", StatusCode::UNAUTHORIZED),
        (UNLISTED_PEER, "s3cret", StatusCode::FORBIDDEN),
    ] {
        let delivery = Delivery::new("https://shop.example/payments").from_peer(peer);
        let found = send(&app, delivery.token(token).request()).await.0;
        assert_eq!(found, expected, "{peer} {token}");
    }
}

#[tokio::test]
async fn tagging_callback_routes_hand_on_every_request_with_its_verdict() {
    let routes = Router::new().route(
        "/webhooks",
        post(async |verdict: Verdict| verdict.is_allowed().to_string()),
    );
    let routes = CallbackRoutes::tagging(routes, list(), ConnectInfoPeer)
        .signature(Policy::Both, VerifySignatureLayer::rejecting(secret()));
    let app = shop(|shop| shop.merge(routes));
    assert_eq!(statuses_of_deliveries(&app, "/webhooks").await, [200; 4]);
    let unlisted = send(&app, request(Method::POST, "/webhooks", UNLISTED_PEER)).await;
    assert_eq!(unlisted, (StatusCode::OK, "false".to_owned()));
}

fn closes(response: &Response) -> bool {
    let connection = response.headers().get(header::CONNECTION);
    connection.is_some_and(|value| value == "close")
}

#[tokio::test]
async fn a_refusal_by_an_extractor_closes_the_connection_if_a_body_is_left_unread() {
    let app = Router::new()
        .route("/allowed", post(async |_: Allowed| ()))
        .route("/verdict", post(async |_: Verdict| ()))
        .route("/callback", post(async |_: VerifiedCallback| ()))
        .route(
            "/message",
            post(async |_: callback_source::MessageVerdict| ()),
        )
        .route(
            "/tagged",
            post(async |_: Allowed| ()).layer(VerifySourceLayer::tagging(list(), ConnectInfoPeer)),
        );
    for path in ["/allowed", "/verdict", "/callback", "/message", "/tagged"] {
        for (body, expected) in [("", false), ("unread", true)] {
            let mut request = request(Method::POST, path, UNLISTED_PEER);
            *request.body_mut() = Body::from(body);
            let length = body.len().into();
            request.headers_mut().insert(header::CONTENT_LENGTH, length);
            let response = app.clone().oneshot(request).await.unwrap();
            assert!(!response.status().is_success(), "{path}");
            assert_eq!(closes(&response), expected, "{path} {body:?}");
        }
    }
}

#[tokio::test]
async fn a_connection_that_an_extractor_refused_without_a_body_is_used_again() {
    let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
    let routes = Router::new().route("/payments", post(async |_: Allowed| "received"));
    let tagging = CallbackRoutes::tagging(routes, AllowList::fixed([loopback]), ConnectInfoPeer);
    let app = Router::new()
        .route("/outside", post(async |_: Allowed| "never"))
        .merge(tagging);
    let merchant = Merchant::serve(app, (Ipv4Addr::LOCALHOST, 0).into())
        .await
        .unwrap();
    let mut client = Connection::connect(loopback, merchant.addr())
        .await
        .unwrap();
    for (path, expected) in [("/outside", 500), ("/payments", 200), ("/outside", 500)] {
        let reply = client.send("POST", path, &[], b"").await.unwrap();
        assert_eq!(reply.status, expected, "{path}");
    }
}
