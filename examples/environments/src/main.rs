//! One service for the callbacks of both environments, production and test.
//!
//! The production route admits only callback servers of production, not servers of the test environment. The test route
//! accepts callbacks from every peer, and its handler reads the verdict.

use std::{error::Error, net::SocketAddr};

use axum::{Router, routing::post};
use callback_source::{
    AllowList, Allowed, HickoryResolver, Verdict,
    verify::{ConnectInfoPeer, VerifySourceLayer},
    vipps::Environment,
};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt()
        .with_env_filter("error,callback_source=info")
        .with_writer(std::io::stderr)
        .init();
    let resolver = HickoryResolver::from_system_conf()?;
    let servers_of = |environment| {
        let list = AllowList::builder().environment(environment);
        list.spawn(resolver.clone())
    };
    let app = app(
        servers_of(Environment::Production),
        servers_of(Environment::Test),
    );
    let listener = TcpListener::bind("127.0.0.1:8080").await?;
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service).await?;
    Ok(())
}

fn app(production: AllowList, test: AllowList) -> Router {
    let rejecting = VerifySourceLayer::rejecting(production, ConnectInfoPeer);
    let tagging = VerifySourceLayer::tagging(test, ConnectInfoPeer);
    Router::new()
        .route("/vipps/webhooks", post(ship).layer(rejecting))
        .route("/vipps-test/webhooks", post(try_out).layer(tagging))
}

async fn ship(allowed: Allowed) -> String {
    format!("shipped, {} has paid\n", allowed.peer())
}

async fn try_out(verdict: Verdict) -> String {
    match verdict {
        Verdict::Allow(allowed) => format!("from {}\n", allowed.peer()),
        Verdict::Reject(rejection) => {
            format!("production would refuse: {}\n", rejection.kind().as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use axum::{body::Body, http::StatusCode};
    use callback_source_testkit::{Delivery, UNLISTED_PEER};
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn production_refuses_unlisted_peers_and_test_servers() {
        let (status, text) = post_to("/vipps/webhooks", PRODUCTION).await;
        assert_eq!(
            (status, &*text),
            (StatusCode::OK, "shipped, 127.0.1.1 has paid\n")
        );
        for peer in [TEST, UNLISTED_PEER] {
            let (status, _) = post_to("/vipps/webhooks", peer).await;
            assert_eq!(status, StatusCode::FORBIDDEN);
        }
    }

    #[tokio::test]
    async fn the_test_route_accepts_all_peers_and_recognizes_test_servers() {
        let (status, text) = post_to("/vipps-test/webhooks", TEST).await;
        assert_eq!((status, &*text), (StatusCode::OK, "from 127.0.3.1\n"));
        for peer in [PRODUCTION, UNLISTED_PEER] {
            let (status, text) = post_to("/vipps-test/webhooks", peer).await;
            assert_eq!(status, StatusCode::OK);
            assert_eq!(text, "production would refuse: not-listed\n");
        }
    }

    async fn post_to(path: &str, peer: IpAddr) -> (StatusCode, String) {
        let app = app(AllowList::fixed([PRODUCTION]), AllowList::fixed([TEST]));
        let delivery = Delivery::new(&format!("https://shop.example{path}")).from_peer(peer);
        let response = app.oneshot(delivery.request::<Body>()).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.into()).unwrap())
    }

    const PRODUCTION: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 1, 1));
    const TEST: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 3, 1));
}
