//! Tests of the source check together with the message checks.

use std::net::IpAddr;

use axum::{body::Body, http::StatusCode};
use callback_source::{
    AllowList,
    signature::{Secret, Token},
};
use callback_source_testkit::{Delivery, UNLISTED_PEER};
use receiver::app::{Credentials, Mode, router};

use crate::routes::{App, CALLBACKS, Reply, SERVER, delivery};

#[tokio::test]
async fn a_signed_webhook_from_a_listed_address_is_received() {
    let app = app(Mode::Reject);
    let reply = app.webhook(SERVER, SECRET).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    let received = &app.received().await[0];
    assert_eq!(received["kind"], "epayment");
    assert_eq!(received["peer"], "127.0.1.1");
    assert_eq!(received["checks"]["passed"], "signature");
}

#[tokio::test]
async fn a_wrong_signature_from_a_listed_address_is_refused() {
    let app = app(Mode::Reject);
    let reply = app.webhook(SERVER, "another secret").await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);

    let signed = webhook(SERVER).signed(&secret(SECRET));
    let mut without_date = signed.request::<Body>();
    without_date.headers_mut().remove("x-ms-date");
    let reply = app.send(without_date).await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    let mut other_body = signed.request::<Body>();
    *other_body.body_mut() = EVENT.replace("49900", "1").into();
    let reply = app.send(other_body).await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    let reply = app.send(webhook(SERVER).request()).await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    assert!(app.received().await.is_empty());
}

#[tokio::test]
async fn a_valid_signature_from_an_unlisted_address_is_refused() {
    let app = app(Mode::Reject);
    let reply = app.webhook(UNLISTED_PEER, SECRET).await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    assert!(app.received().await.is_empty());
}

#[tokio::test]
async fn ecom_and_checkout_need_the_token_and_consent_removal_does_not() {
    let app = app(Mode::Reject);
    for (kind, method, path, body) in CALLBACKS {
        if path == "/webhooks" {
            continue;
        }
        let send = async |peer, token: Option<&'static str>| {
            let mut delivery = delivery(peer, method, path, body);
            if let Some(token) = token {
                delivery = delivery.token(token);
            }
            app.send(delivery.request()).await.status
        };
        let is_checked = method != "DELETE";
        let without = send(SERVER, None).await;
        assert_eq!(without == StatusCode::UNAUTHORIZED, is_checked, "{kind}");
        let wrong = send(SERVER, Some("another token")).await;
        assert_eq!(wrong == StatusCode::UNAUTHORIZED, is_checked, "{kind}");
        assert_eq!(
            send(UNLISTED_PEER, Some(TOKEN)).await,
            StatusCode::FORBIDDEN
        );
        assert!(send(SERVER, Some(TOKEN)).await.is_success(), "{kind}");

        let received = &app.received().await[0];
        assert_eq!(received["kind"], kind);
        match is_checked {
            true => assert_eq!(received["checks"]["passed"], "token"),
            false => assert_eq!(received.get("checks"), None),
        }
    }
}

#[tokio::test]
async fn tagging_receives_everything_and_records_what_rejecting_would_do() {
    let app = app(Mode::Tag);
    for (peer, secret, joined) in [
        (SERVER, SECRET, r#"{"passed":"signature"}"#),
        (SERVER, "another secret", r#"{"refused":"signature"}"#),
        (UNLISTED_PEER, SECRET, r#"{"refused":"not-listed"}"#),
        (
            UNLISTED_PEER,
            "another secret",
            r#"{"refused":"not-listed"}"#,
        ),
    ] {
        let reply = app.webhook(peer, secret).await;
        assert_eq!(reply.status, StatusCode::OK);
        assert_eq!(app.received().await[0]["checks"].to_string(), joined);
    }
}

#[tokio::test]
async fn without_a_secret_and_a_token_only_the_source_is_checked() {
    let list = AllowList::fixed([SERVER]);
    let app = App(router(list, Mode::Reject, Credentials::default()));
    let reply = app.webhook(SERVER, "another secret").await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(app.received().await[0].get("checks"), None);
}

fn app(mode: Mode) -> App {
    let credentials = Credentials {
        webhook_secret: Some(secret(SECRET)),
        token: Some(Token::new(TOKEN).unwrap()),
    };
    App(router(AllowList::fixed([SERVER]), mode, credentials))
}

impl App {
    async fn webhook(&self, peer: IpAddr, signed_with: &str) -> Reply {
        let signed = webhook(peer).signed(&secret(signed_with));
        self.send(signed.request()).await
    }
}

fn webhook(peer: IpAddr) -> Delivery {
    delivery(peer, "POST", "/webhooks", EVENT)
}

fn secret(text: &str) -> Secret {
    Secret::new(text).expect("the secret is valid")
}

const SECRET: &str = "the secret of the registration";
const TOKEN: &str = "the token of the shop";
const EVENT: &str = r#"{"msn":"123456","reference":"acme-shop-123-order123abc","pspReference":"dd8e0a8e-2b26-40ed-98f1-1d5832fc129f","name":"AUTHORIZED","amount":{"currency":"NOK","value":49900},"timestamp":"2026-01-19T16:26:32.099Z","idempotencyKey":"7c8b81e7-b08b-46e4-9729-191cb801c132","success":true}"#;
