use std::net::{IpAddr, Ipv4Addr};

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode},
};
use callback_source::{AllowList, ResolveErrorKind, vipps::Environment};
use callback_source_testkit::{Delivery, Provider, UNLISTED_PEER};
use http_body_util::BodyExt;
use receiver::app::{Credentials, Mode, router};
use serde_json::{Value, json};
use tower::ServiceExt;

#[tokio::test]
async fn every_callback_of_the_provider_is_received() {
    for (kind, method, path, body) in CALLBACKS {
        let app = app(Mode::Reject);
        let reply = app.call(SERVER, method, path, body).await;
        assert!(reply.status.is_success(), "{kind}: {reply:?}");

        let [received] = app.received().await.try_into().unwrap();
        assert_eq!(received["kind"], kind);
        assert_eq!(received["peer"], "127.0.1.1");
        assert_eq!(received["network"], "127.0.1.1/32");
        assert_eq!(received["freshness"], "static");
        assert_eq!(received["knownForSeconds"], 0);
        assert_eq!(received.get("reason"), None);
        if !body.is_empty() {
            assert_contains(&received["body"], &serde_json::from_str(body).unwrap());
        }
    }
}

#[tokio::test]
async fn fields_and_values_that_the_provider_may_add_are_received() {
    for (kind, method, path, body) in [
        (
            "ecom-payment",
            "POST",
            "/v2/payments/1",
            r#"{"orderId":"1","transactionInfo":{"status":"TELEPORTED","transactionId":5001420062,"new":{}},"new":[1]}"#,
        ),
        (
            "ecom-shipping",
            "POST",
            "/v2/payments/1/shippingDetails",
            r#"{"addressId":1,"country":"NO","addressType":"MOON","new":true}"#,
        ),
        (
            "epayment",
            "POST",
            "/webhooks",
            r#"{"msn":"1","reference":"r","pspReference":"p","name":"TELEPORTED","new":null}"#,
        ),
        (
            "epayment",
            "POST",
            "/webhooks",
            r#"{"msn":"1","reference":"r","pspReference":"p","name":"CREATED","idempotencyKey":null,"success":true}"#,
        ),
        (
            "recurring-charge",
            "POST",
            "/webhooks",
            r#"{"agreementId":"a","chargeId":"c","eventType":"recurring.charge-teleported.v9","new":1}"#,
        ),
        (
            "recurring-agreement",
            "POST",
            "/webhooks",
            r#"{"agreementId":"a","eventType":"recurring.agreement-teleported.v9","actor":"ROBOT","new":1}"#,
        ),
        (
            "qr-check-in",
            "POST",
            "/webhooks",
            r#"{"customerToken":"t","merchantQrId":"q","new":1}"#,
        ),
        (
            "checkout",
            "POST",
            "/checkout",
            r#"{"sessionId":"s","reference":"r","sessionState":"Teleported","paymentDetails":{"state":"NEW","new":1},"userInfo":{"sub":"x"}}"#,
        ),
    ] {
        let app = app(Mode::Reject);
        let reply = app.call(SERVER, method, path, body).await;
        assert!(reply.status.is_success(), "{body}: {reply:?}");
        assert_eq!(app.received().await[0]["kind"], kind);
    }
}

#[tokio::test]
async fn json_of_another_type_is_refused_without_repeating_it() {
    for (path, body, named) in [
        ("/v2/payments/1", r#"{"secret":"s3cret"}"#, "`orderId`"),
        (
            "/v2/payments/1",
            r#"{"orderId":"s3cret"}"#,
            "`transactionInfo`",
        ),
        (
            "/v2/payments/1",
            r#"{"orderId":"1","transactionInfo":"s3cret"}"#,
            "`transactionInfo`",
        ),
        (
            "/v2/payments/1/shippingDetails",
            r#"{"addressId":"s3cret","country":"NO"}"#,
            "`addressId`",
        ),
        ("/webhooks", r#"{"secret":"s3cret"}"#, "`pspReference`"),
        (
            "/webhooks",
            r#"{"msn":"1","reference":"s3cret","name":"CREATED"}"#,
            "`pspReference`",
        ),
        ("/webhooks", r#"{"agreementId":"s3cret"}"#, "`eventType`"),
        (
            "/webhooks",
            r#"{"customerToken":"s3cret"}"#,
            "`merchantQrId`",
        ),
        ("/checkout", r#"{"sessionId":"s3cret"}"#, "`sessionState`"),
        ("/checkout", r#"["s3cret"]"#, "`sessionState`"),
        ("/checkout", r#""s3cret""#, "`sessionState`"),
        ("/checkout", "null", "`sessionState`"),
    ] {
        let app = app(Mode::Reject);
        let reply = app.call(SERVER, "POST", path, body).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
        assert!(reply.text.contains(named), "{body}: {}", reply.text);
        assert!(!reply.text.contains("s3cret"), "{body}: {}", reply.text);
        assert!(app.received().await.is_empty());
    }
}

#[tokio::test]
async fn invalid_json_is_refused_with_line_and_column() {
    for (body, text) in [
        ("", "the body is empty\n"),
        (" ", "the body is not JSON: line 1, column 1\n"),
        ("{\n\"s3cret", "the body is not JSON: line 2, column 7\n"),
        ("s3cret=1", "the body is not JSON: line 1, column 1\n"),
    ] {
        for path in ["/v2/payments/1", "/webhooks", "/checkout"] {
            let reply = app(Mode::Reject).call(SERVER, "POST", path, body).await;
            assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{body}");
            assert_eq!(reply.text, text, "{body}");
        }
    }
    let deep = "[".repeat(10_000);
    let reply = app(Mode::Reject)
        .call(SERVER, "POST", "/webhooks", &deep)
        .await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_body_may_have_256_kib_and_not_a_byte_more() {
    let (_, method, path, body) = CALLBACKS[0];
    let full = body.to_owned() + &" ".repeat(256 * 1024 - body.len());
    let reply = app(Mode::Reject).call(SERVER, method, path, &full).await;
    assert_eq!(reply.status, StatusCode::OK);

    let reply = app(Mode::Reject)
        .call(SERVER, method, path, &(full + " "))
        .await;
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(reply.text, "the body is larger than 256 KiB\n");
}

#[tokio::test]
async fn an_unlisted_peer_is_refused_on_every_route() {
    let app = app(Mode::Reject);
    for (_, method, path, body) in CALLBACKS {
        let reply = app.call(UNLISTED_PEER, method, path, body).await;
        assert_eq!(reply.status, StatusCode::FORBIDDEN, "{method} {path}");
    }
    let reply = app.call(UNLISTED_PEER, "GET", "/webhooks", "").await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    assert!(app.received().await.is_empty());
}

#[tokio::test]
async fn other_methods_get_405_from_a_callback_server_and_other_paths_404_from_anyone() {
    let app = app(Mode::Reject);
    let reply = app.call(SERVER, "GET", "/webhooks", "").await;
    assert_eq!(reply.status, StatusCode::METHOD_NOT_ALLOWED);
    for peer in [SERVER, UNLISTED_PEER] {
        for path in ["/", "/nothing"] {
            let reply = app.call(peer, "POST", path, "").await;
            assert_eq!(reply.status, StatusCode::NOT_FOUND, "{path}");
        }
    }
}

#[tokio::test]
async fn tagging_receives_from_unlisted_peers_and_records_the_reason() {
    let app = app(Mode::Tag);
    let (_, method, path, body) = CALLBACKS[0];
    for peer in [SERVER, UNLISTED_PEER] {
        let reply = app.call(peer, method, path, body).await;
        assert_eq!(reply.status, StatusCode::OK);
    }
    let [unlisted, server] = app.received().await.try_into().unwrap();
    assert_eq!(unlisted["peer"], "203.0.113.66");
    assert_eq!(unlisted["reason"], "not-listed");
    assert_eq!(unlisted.get("freshness"), None);
    assert_eq!(server["peer"], "127.0.1.1");
    assert_eq!(server.get("reason"), None);
}

#[tokio::test]
async fn shipping_details_are_answered_with_the_methods_of_the_shop() {
    let (_, method, path, body) = CALLBACKS[2];
    let reply = app(Mode::Reject).call(SERVER, method, path, body).await;
    let expected = json!({
        "addressId": 3960,
        "orderId": "acme-shop-123-order123abc",
        "shippingDetails": [
            {
                "isDefault": "Y",
                "priority": 1,
                "shippingCost": 0,
                "shippingMethod": "Pick up in the shop",
                "shippingMethodId": "pick-up",
            },
            {
                "isDefault": "N",
                "priority": 2,
                "shippingCost": 79,
                "shippingMethod": "Home delivery",
                "shippingMethodId": "home-delivery",
            },
        ],
    });
    assert_eq!(reply.json(), expected);
}

#[tokio::test]
async fn names_in_paths_are_decoded() {
    let app = app(Mode::Reject);
    let path = "/v2/consents/uiJskNQ6qNN1iwN891uuob%3D%3D";
    let reply = app.call(SERVER, "DELETE", path, "").await;
    assert_eq!(reply.status, StatusCode::NO_CONTENT);
    let (_, _, _, body) = CALLBACKS[0];
    app.call(SERVER, "POST", "/v2/payments/a%2Fb", body).await;

    let [payment, removal] = app.received().await.try_into().unwrap();
    assert_eq!(removal["userId"], "uiJskNQ6qNN1iwN891uuob==");
    assert_eq!(payment["orderId"], "a/b");
    let reply = app.call(SERVER, "DELETE", "/v2/consents/%FF", "").await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn the_last_hundred_are_kept_newest_first() {
    let app = app(Mode::Reject);
    for number in 0..=100 {
        let path = format!("/v2/consents/{number}");
        app.call(SERVER, "DELETE", &path, "").await;
    }
    let received = app.received().await;
    assert_eq!(received.len(), 100);
    assert_eq!(received[0]["userId"], "100");
    assert_eq!(received[99]["userId"], "1");
}

#[tokio::test]
async fn received_callbacks_are_shown_to_this_machine_only() {
    let app = app(Mode::Tag);
    let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped();
    for (peer, status) in [
        (LOCALHOST, StatusCode::OK),
        (IpAddr::V6(mapped), StatusCode::OK),
        (UNLISTED_PEER, StatusCode::FORBIDDEN),
    ] {
        let reply = app.call(peer, "GET", "/received", "").await;
        assert_eq!(reply.status, status, "{peer}");
    }
}

#[tokio::test]
async fn received_callbacks_are_not_shown_through_a_proxy_on_this_machine() {
    let app = app(Mode::Tag);
    for header in ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"] {
        let delivery = delivery(LOCALHOST, "GET", "/received", "").header(header, "127.0.0.1");
        let reply = app.send(delivery.request()).await;
        assert_eq!(reply.status, StatusCode::FORBIDDEN, "{header}");
    }
}

#[tokio::test(start_paused = true)]
async fn readiness_is_that_of_the_list() {
    let reply = app(Mode::Reject)
        .call(UNLISTED_PEER, "GET", "/readyz", "")
        .await;
    assert_eq!((reply.status, &*reply.text), (StatusCode::OK, "ready\n"));

    let provider = Provider::new(Environment::Test);
    provider.fail(ResolveErrorKind::Timeout);
    let list = AllowList::builder().environment(Environment::Test);
    let list = list.spawn(provider.resolver());
    let app = App(router(list.clone(), Mode::Reject, Credentials::default()));
    let reply = app.call(UNLISTED_PEER, "GET", "/readyz", "").await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(reply.text, "not ready\n");

    provider.recover();
    list.ready().await;
    let reply = app.call(UNLISTED_PEER, "GET", "/readyz", "").await;
    assert_eq!(reply.status, StatusCode::OK);
}

#[tokio::test]
async fn a_router_without_peer_addresses_answers_500() {
    let router = router(
        AllowList::fixed([SERVER]),
        Mode::Reject,
        Credentials::default(),
    );
    let request = Request::post("/webhooks").body(Body::empty()).unwrap();
    let response = router.oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
}

pub(crate) struct App(pub(crate) Router);

fn app(mode: Mode) -> App {
    App(router(
        AllowList::fixed([SERVER]),
        mode,
        Credentials::default(),
    ))
}

impl App {
    async fn call(&self, peer: IpAddr, method: &str, path: &str, body: &str) -> Reply {
        self.send(delivery(peer, method, path, body).request())
            .await
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.0.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8(body.into()).unwrap();
        Reply { status, text }
    }

    pub(crate) async fn received(&self) -> Vec<Value> {
        let reply = self.call(LOCALHOST, "GET", "/received", "").await;
        let Value::Array(received) = reply.json() else {
            panic!("not an array: {reply:?}");
        };
        received
    }
}

pub(crate) fn delivery(peer: IpAddr, method: &str, path: &str, body: &str) -> Delivery {
    Delivery::new(&format!("https://shop.example{path}"))
        .method(method.parse().unwrap())
        .header("Content-Type", "application/json;charset=UTF-8")
        .body(body.to_owned())
        .from_peer(peer)
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }
}

/// Asserts that `received` contains all of `sent`.
fn assert_contains(received: &Value, sent: &Value) {
    match (received, sent) {
        (Value::Object(received), Value::Object(sent)) => {
            for (name, value) in sent {
                assert!(received.contains_key(name), "`{name}` is missing");
                assert_contains(&received[name], value);
            }
        }
        // The receiver turns ids that are numbers into strings.
        (Value::String(received), Value::Number(sent)) => assert_eq!(*received, sent.to_string()),
        _ => assert_eq!(received, sent),
    }
}

pub(crate) const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 1, 1));
const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Each callback by name, with its method, path and body.
pub(crate) const CALLBACKS: [(&str, &str, &str, &str); 10] = [
    (
        "ecom-payment",
        "POST",
        "/v2/payments/acme-shop-123-order123abc",
        r#"{"merchantSerialNumber":123456,"orderId":"acme-shop-123-order123abc","transactionInfo":{"amount":20000,"status":"RESERVED","timeStamp":"2018-12-12T11:18:38.246Z","transactionId":"5001420062"}}"#,
    ),
    (
        "ecom-payment",
        "POST",
        "/v2/payments/acme-shop-123-order123abc",
        r#"{"merchantSerialNumber":123456,"orderId":"acme-shop-123-order123abc","shippingDetails":{"address":{"addressLine1":"Dronning Eufemias gate 42","addressLine2":null,"city":"OSLO","country":"Norway","zipCode":"0191"},"shippingCost":109.99,"shippingMethod":"Home delivery","shippingMethodId":"home-delivery"},"transactionInfo":{"amount":20000,"status":"RESERVE","timeStamp":"2018-12-12T11:18:38.246Z","transactionId":"5001420062"},"userDetails":{"firstName":"Ada","lastName":"Lovelace","email":"ada@example.com","mobileNumber":"4712345678","userId":"uiJskNQ6qNN1iwN891uuob=="}}"#,
    ),
    (
        "ecom-shipping",
        "POST",
        "/v2/payments/acme-shop-123-order123abc/shippingDetails",
        r#"{"addressId":3960,"addressLine1":"Dronning Eufemias gate 42","addressLine2":null,"country":"Norway","city":"OSLO","postCode":"0191","addressType":"H"}"#,
    ),
    (
        "ecom-consent-removal",
        "DELETE",
        "/v2/consents/uiJskNQ6qNN1iwN891uuob%3D%3D",
        "",
    ),
    (
        "epayment",
        "POST",
        "/webhooks",
        r#"{"msn":"123456","reference":"acme-shop-123-order123abc","pspReference":"dd8e0a8e-2b26-40ed-98f1-1d5832fc129f","name":"AUTHORIZED","amount":{"currency":"NOK","value":49900},"timestamp":"2026-01-19T16:26:32.099Z","idempotencyKey":"7c8b81e7-b08b-46e4-9729-191cb801c132","success":true}"#,
    ),
    (
        "epayment",
        "POST",
        "/webhooks",
        r#"{"msn":"373370","reference":"inv-8-attempt-2","pspReference":"740e7483-c083-4b95-9246-a37299ad53b7","name":"CREATED","amount":{"currency":"NOK","value":12100},"timestamp":"2025-05-31T17:29:23.358Z","idempotencyKey":"683b3c72858e20.24358952","success":true}"#,
    ),
    (
        "recurring-charge",
        "POST",
        "/webhooks",
        r#"{"agreementId":"agr_kFW4chk","chargeExternalId":"extId","chargeId":"82ce990f-d08a-448c-bd26-ee6be8418d06","amount":300,"chargeType":"RECURRING","eventType":"recurring.charge-canceled.v1","currency":"NOK","occurred":"2023-10-10T13:30:36.079765975Z","amountCaptured":0,"amountCanceled":300,"amountRefunded":0}"#,
    ),
    (
        "recurring-agreement",
        "POST",
        "/webhooks",
        r#"{"agreementId":"agr_hXbXJUN","occurred":"2023-10-11T09:51:04.562829303Z","agreementExternalId":null,"eventType":"recurring.agreement-stopped.v1","agreementUUID":"c81bf516-7972-488e-bbf1-146dcd8592f9","actor":"MERCHANT"}"#,
    ),
    (
        "qr-check-in",
        "POST",
        "/webhooks",
        r#"{"customerToken":"wbA8ceVRKkoYiQAVELHeFCC3Sn5dtNCvvEtVPiOT77j6wx7uR965AG6Q+q0ATP4=","merchantQrId":"d8b7d76d-49aa-48b8-90c6-38779372c163","merchantSerialNumber":"12345","initiatedAt":"2023-10-06T10:45:40.3061965Z"}"#,
    ),
    (
        "checkout",
        "POST",
        "/checkout",
        r#"{"sessionId":"v52EtjZriRmGiKiAKHByK2","merchantSerialNumber":"123456","reference":"acme-shop-123-order123abc","sessionState":"PaymentSuccessful","paymentMethod":"Wallet","paymentDetails":{"type":"Wallet","amount":{"value":49900,"currency":"NOK"},"state":"AUTHORIZED"}}"#,
    ),
];
