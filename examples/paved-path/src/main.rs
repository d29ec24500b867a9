//! The shortest service behind callback-source.

use std::{error::Error, net::SocketAddr};

use axum::{Router, routing::post};
use callback_source::{
    AllowList, Allowed, HickoryResolver,
    verify::{ConnectInfoPeer, VerifySourceLayer},
    vipps,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let allow = AllowList::builder()
        .environment(vipps::Environment::Production)
        .spawn(HickoryResolver::from_system_conf()?);
    let app = Router::new()
        .route("/vipps/callbacks/v2/payments/{order_id}", post(callback))
        .layer(VerifySourceLayer::rejecting(allow, ConnectInfoPeer));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    axum::serve(
        listener,
        app.into_make_service_with_connect_info::<SocketAddr>(),
    )
    .await?;
    Ok(())
}

async fn callback(allowed: Allowed, body: String) {
    println!("{} sent {} bytes", allowed.peer(), body.len());
}
