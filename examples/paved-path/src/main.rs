//! The shortest service behind callback-source.

use axum::{Router, routing::post};
use callback_source::{AllowList, CallbackRoutes, HickoryResolver};
use callback_source::{verify::ConnectInfoPeer, vipps::Environment};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let list = AllowList::builder()
        .environment(Environment::Production)
        .spawn(HickoryResolver::from_system_conf()?);
    let app = app(list).into_make_service_with_connect_info::<std::net::SocketAddr>();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    axum::serve(listener, app).await?;
    Ok(())
}

fn app(list: AllowList) -> Router {
    let webhook = post(async |body: String| println!("{body}"));
    let callbacks = Router::new().route("/vipps/webhooks", webhook);
    Router::new().merge(CallbackRoutes::rejecting(callbacks, list, ConnectInfoPeer))
}

#[cfg(test)]
mod tests;
