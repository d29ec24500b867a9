//! Both locks: where a callback comes from, and what it proves itself with.

use std::{net::IpAddr, time::SystemTime};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header},
};
use callback_source::{
    AllowList,
    signature::{Secret, Token, webhook},
};
use receiver::app::{Mode, Proofs, router};

use crate::routes::{App, CALLBACKS, Reply, SERVER, STRANGER};

#[tokio::test]
async fn a_signed_webhook_from_a_listed_address_is_received() {
    let app = app(Mode::Reject);
    let reply = app.webhook(SERVER, SECRET, EVENT).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    let received = &app.received().await[0];
    assert_eq!(received["kind"], "epayment");
    assert_eq!(received["peer"], "127.0.1.1");
    assert_eq!(received["proof"]["proven"], "signature");
}

#[tokio::test]
async fn a_wrong_signature_from_a_listed_address_is_refused() {
    let app = app(Mode::Reject);
    let reply = app.webhook(SERVER, "another secret", EVENT).await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);

    let mut headers = signed(SECRET, EVENT);
    headers.remove("x-ms-date");
    let reply = app.post(SERVER, "/webhooks", headers, EVENT).await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    let other_body = EVENT.replace("49900", "1");
    let reply = app
        .post(SERVER, "/webhooks", signed(SECRET, EVENT), &other_body)
        .await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    let reply = app.post(SERVER, "/webhooks", HeaderMap::new(), EVENT).await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    assert!(app.received().await.is_empty());
}

#[tokio::test]
async fn a_right_signature_from_an_unlisted_address_is_refused() {
    let app = app(Mode::Reject);
    let reply = app.webhook(STRANGER, SECRET, EVENT).await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    assert!(app.received().await.is_empty());
}

#[tokio::test]
async fn ecom_and_checkout_are_asked_for_the_token_and_consent_removal_is_not() {
    let app = app(Mode::Reject);
    for (kind, method, path, body) in CALLBACKS {
        if path == "/webhooks" {
            continue;
        }
        let send = async |peer, token: Option<&'static str>| {
            let mut request = Request::builder().method(method).uri(path);
            if let Some(token) = token {
                request = request.header(header::AUTHORIZATION, token);
            }
            let request = request.body(Body::from(body)).unwrap();
            app.request(peer, request).await.status
        };
        let has_proof = method != "DELETE";
        let unproven = send(SERVER, None).await;
        assert_eq!(unproven == StatusCode::UNAUTHORIZED, has_proof, "{kind}");
        let wrong = send(SERVER, Some("another token")).await;
        assert_eq!(wrong == StatusCode::UNAUTHORIZED, has_proof, "{kind}");
        assert_eq!(send(STRANGER, Some(TOKEN)).await, StatusCode::FORBIDDEN);
        assert!(send(SERVER, Some(TOKEN)).await.is_success(), "{kind}");

        let received = &app.received().await[0];
        assert_eq!(received["kind"], kind);
        match has_proof {
            true => assert_eq!(received["proof"]["proven"], "token"),
            false => assert_eq!(received.get("proof"), None),
        }
    }
}

#[tokio::test]
async fn tagging_receives_everything_and_says_what_the_locks_would_have_said() {
    let app = app(Mode::Tag);
    for (peer, secret, joined) in [
        (SERVER, SECRET, r#"{"proven":"signature"}"#),
        (SERVER, "another secret", r#"{"refused":"signature"}"#),
        (STRANGER, SECRET, r#"{"refused":"not-listed"}"#),
        (STRANGER, "another secret", r#"{"refused":"not-listed"}"#),
    ] {
        let reply = app.webhook(peer, secret, EVENT).await;
        assert_eq!(reply.status, StatusCode::OK);
        assert_eq!(app.received().await[0]["proof"].to_string(), joined);
    }
}

#[tokio::test]
async fn nothing_is_asked_for_without_a_secret_and_a_token() {
    let list = AllowList::fixed([SERVER]);
    let app = App(router(list, Mode::Reject, Proofs::default()));
    let reply = app.webhook(SERVER, "another secret", EVENT).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(app.received().await[0].get("proof"), None);
}

fn app(mode: Mode) -> App {
    let proofs = Proofs {
        webhook_secret: Some(Secret::new(SECRET).unwrap()),
        token: Some(Token::new(TOKEN).unwrap()),
    };
    App(router(AllowList::fixed([SERVER]), mode, proofs))
}

impl App {
    async fn webhook(&self, peer: IpAddr, secret: &str, body: &str) -> Reply {
        self.post(peer, "/webhooks", signed(secret, body), body)
            .await
    }

    async fn post(&self, peer: IpAddr, path: &str, headers: HeaderMap, body: &str) -> Reply {
        let mut request = Request::post(path)
            .body(Body::from(body.to_owned()))
            .unwrap();
        *request.headers_mut() = headers;
        let host = HeaderValue::from_static("shop.example");
        request.headers_mut().insert(header::HOST, host);
        self.request(peer, request).await
    }
}

fn signed(secret: &str, body: &str) -> HeaderMap {
    let secret = Secret::new(secret).unwrap();
    let url = Uri::from_static("https://shop.example/webhooks");
    webhook::sign(&secret, &url, body.as_bytes(), SystemTime::now()).unwrap()
}

const SECRET: &str = "the secret of the registration";
const TOKEN: &str = "the token of the shop";
const EVENT: &str = r#"{"msn":"123456","reference":"acme-shop-123-order123abc","pspReference":"dd8e0a8e-2b26-40ed-98f1-1d5832fc129f","name":"AUTHORIZED","amount":{"currency":"NOK","value":49900},"timestamp":"2026-01-19T16:26:32.099Z","idempotencyKey":"7c8b81e7-b08b-46e4-9729-191cb801c132","success":true}"#;
