//! The routes and their checks.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::{ConnectInfo, DefaultBodyLimit, Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use callback_source::{
    AllowList, CallbackRoutes, Policy,
    signature::{Secret, Token, VerifySignatureLayer, VerifyTokenLayer},
    verify::ConnectInfoPeer,
};

use crate::{
    bodies::{Checkout, Payment, ShippingAddress, ShippingMethods, Webhook},
    body::{Body, MAX_BODY},
    received::{Caller, Event, Log},
};

/// The treatment of a callback that fails a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Refuses the callback.
    Reject,
    /// Receives the callback and records the reason for its rejection.
    Tag,
}

/// The secrets of the message checks. Without a secret, the message check that needs the secret is skipped.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// The secret from the registration of the webhook.
    pub webhook_secret: Option<Secret>,
    /// The `Authorization` value that the merchant gave to eCom and Checkout.
    pub token: Option<Token>,
}

/// Creates the service's router, with the checked routes for callbacks and the unchecked routes for the operator.
///
/// Serve the router with the peer's address: `into_make_service_with_connect_info::<SocketAddr>()`.
pub fn router(list: AllowList, mode: Mode, credentials: Credentials) -> Router {
    let log = Arc::new(Log::default());
    // A consent removal has neither a signature nor a token.
    let consents = Router::new().route("/v2/consents/{user_id}", delete(consent_removal));
    let webhooks = Router::new().route("/webhooks", post(webhook));
    let payments = Router::new()
        .route("/v2/payments/{order_id}", post(payment))
        .route("/v2/payments/{order_id}/shippingDetails", post(shipping))
        .route("/checkout", post(checkout));
    let consents = checked(consents, &list, mode);
    let webhooks = match credentials.webhook_secret {
        Some(secret) => checked(webhooks, &list, mode)
            .signature(Policy::Both, VerifySignatureLayer::rejecting(secret)),
        None => checked(webhooks, &list, mode),
    };
    let payments = match credentials.token {
        Some(token) => {
            checked(payments, &list, mode).token(Policy::Both, VerifyTokenLayer::rejecting(token))
        }
        None => checked(payments, &list, mode),
    };
    Router::new()
        .merge(consents)
        .merge(webhooks)
        .merge(payments)
        .route("/received", get(received))
        .with_state(log)
        .route("/readyz", get(readyz).with_state(list))
}

/// Adds the source check to routes. `CallbackRoutes` checks these routes and no other routes.
fn checked(
    routes: Router<Arc<Log>>,
    list: &AllowList,
    mode: Mode,
) -> CallbackRoutes<ConnectInfoPeer, Arc<Log>> {
    let routes = routes.layer(DefaultBodyLimit::max(MAX_BODY));
    match mode {
        Mode::Reject => CallbackRoutes::rejecting(routes, list.clone(), ConnectInfoPeer),
        Mode::Tag => CallbackRoutes::tagging(routes, list.clone(), ConnectInfoPeer),
    }
}

async fn payment(
    caller: Caller,
    State(log): State<Arc<Log>>,
    Path(order_id): Path<String>,
    Body(body): Body<Payment>,
) {
    let body = Box::new(body);
    log.add(Event::EcomPayment { order_id, body }, &caller);
}

async fn shipping(
    caller: Caller,
    State(log): State<Arc<Log>>,
    Path(order_id): Path<String>,
    Body(body): Body<ShippingAddress>,
) -> Json<ShippingMethods> {
    let methods = ShippingMethods::from_shop(body.address_id, order_id.clone());
    log.add(Event::EcomShipping { order_id, body }, &caller);
    Json(methods)
}

async fn consent_removal(
    caller: Caller,
    State(log): State<Arc<Log>>,
    Path(user_id): Path<String>,
) -> StatusCode {
    log.add(Event::EcomConsentRemoval { user_id }, &caller);
    StatusCode::NO_CONTENT
}

async fn webhook(caller: Caller, State(log): State<Arc<Log>>, Body(body): Body<Webhook>) {
    log.add(body.into(), &caller);
}

async fn checkout(caller: Caller, State(log): State<Arc<Log>>, Body(body): Body<Checkout>) {
    let body = Box::new(body);
    log.add(Event::Checkout { body }, &caller);
}

/// Shows the received callbacks, only to loopback peers, since callbacks contain personal data.
async fn received(
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    State(log): State<Arc<Log>>,
) -> Response {
    // A proxy or tunnel on this machine forwards requests of remote clients from a loopback address.
    let forwarded = FORWARDED.iter().any(|name| headers.contains_key(*name));
    if forwarded || !peer.ip().to_canonical().is_loopback() {
        let text = "only this machine may read this, and not through a proxy\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    Json(log.entries()).into_response()
}

async fn readyz(State(list): State<AllowList>) -> (StatusCode, &'static str) {
    match list.is_ready() {
        true => (StatusCode::OK, "ready\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
    }
}

const FORWARDED: [&str; 4] = ["forwarded", "via", "x-forwarded-for", "x-real-ip"];
