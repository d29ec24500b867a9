//! The routes.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::{ConnectInfo, DefaultBodyLimit, Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use callback_source::{
    AllowList, Verdict,
    verify::{ConnectInfoPeer, VerifySourceLayer},
};

use crate::{
    bodies::{Checkout, Payment, ShippingAddress, ShippingMethods, Webhook},
    body::{Body, MAX_BODY},
    received::{Event, Log},
};

/// What becomes of a callback that does not come from a callback server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It is refused.
    Reject,
    /// It is received, and the log says why it would have been refused.
    Tag,
}

/// The routes of the callbacks, behind the layer, and those of the operator, outside of it.
///
/// To be served with the peer's address (`into_make_service_with_connect_info::<SocketAddr>()`).
pub fn router(list: AllowList, mode: Mode) -> Router {
    let layer = match mode {
        Mode::Reject => VerifySourceLayer::rejecting(list.clone(), ConnectInfoPeer),
        Mode::Tag => VerifySourceLayer::tagging(list.clone(), ConnectInfoPeer),
    };
    let log = Arc::new(Log::default());
    let callbacks = Router::new()
        .route("/v2/payments/{order_id}", post(payment))
        .route("/v2/payments/{order_id}/shippingDetails", post(shipping))
        .route("/v2/consents/{user_id}", delete(consent_removal))
        .route("/webhooks", post(webhook))
        .route("/checkout", post(checkout))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        // Not `route_layer`: strangers shall not learn from a 404 or 405 which routes there are.
        .layer(layer)
        .with_state(Arc::clone(&log));
    Router::new()
        .route("/received", get(received).with_state(log))
        .route("/readyz", get(readyz).with_state(list))
        .merge(callbacks)
}

async fn payment(
    verdict: Verdict,
    State(log): State<Arc<Log>>,
    Path(order_id): Path<String>,
    Body(body): Body<Payment>,
) {
    let body = Box::new(body);
    log.add(Event::EcomPayment { order_id, body }, &verdict);
}

async fn shipping(
    verdict: Verdict,
    State(log): State<Arc<Log>>,
    Path(order_id): Path<String>,
    Body(body): Body<ShippingAddress>,
) -> Json<ShippingMethods> {
    let methods = ShippingMethods::of_the_shop(body.address_id, order_id.clone());
    log.add(Event::EcomShipping { order_id, body }, &verdict);
    Json(methods)
}

async fn consent_removal(
    verdict: Verdict,
    State(log): State<Arc<Log>>,
    Path(user_id): Path<String>,
) -> StatusCode {
    log.add(Event::EcomConsentRemoval { user_id }, &verdict);
    StatusCode::NO_CONTENT
}

async fn webhook(verdict: Verdict, State(log): State<Arc<Log>>, Body(body): Body<Webhook>) {
    log.add(body.into(), &verdict);
}

async fn checkout(verdict: Verdict, State(log): State<Arc<Log>>, Body(body): Body<Checkout>) {
    let body = Box::new(body);
    log.add(Event::Checkout { body }, &verdict);
}

/// Shows personal data, so only to somebody at this machine.
async fn received(
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    State(log): State<Arc<Log>>,
) -> Response {
    // A proxy or tunnel on this machine brings strangers in from a loopback address.
    let forwarded = FORWARDED.iter().any(|name| headers.contains_key(*name));
    if forwarded || !peer.ip().to_canonical().is_loopback() {
        let text = "only for this machine, and not through a proxy\n";
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
