//! Callbacks of production and of the test environment in one service.
//!
//! Production's route refuses whoever is not a callback server of production, and the test
//! environment's own servers are strangers there. The test route takes callbacks from anybody, and
//! the handler says whether it believes them.

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
    use axum::{
        body::Body,
        extract::connect_info::ConnectInfo,
        http::{Request, StatusCode},
    };
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn production_refuses_all_others_the_test_servers_included() {
        let (status, text) = post_to("/vipps/webhooks", PRODUCTION).await;
        assert_eq!(
            (status, &*text),
            (StatusCode::OK, "shipped, 127.0.1.1 has paid\n")
        );
        for peer in [TEST, STRANGER] {
            let (status, _) = post_to("/vipps/webhooks", peer).await;
            assert_eq!(status, StatusCode::FORBIDDEN);
        }
    }

    #[tokio::test]
    async fn the_test_route_takes_all_and_knows_its_own() {
        let (status, text) = post_to("/vipps-test/webhooks", TEST).await;
        assert_eq!((status, &*text), (StatusCode::OK, "from 127.0.3.1\n"));
        for peer in [PRODUCTION, STRANGER] {
            let (status, text) = post_to("/vipps-test/webhooks", peer).await;
            assert_eq!(status, StatusCode::OK);
            assert_eq!(text, "production would refuse: not-listed\n");
        }
    }

    async fn post_to(path: &str, peer: [u8; 4]) -> (StatusCode, String) {
        let app = app(
            AllowList::fixed([PRODUCTION.into()]),
            AllowList::fixed([TEST.into()]),
        );
        let mut request = Request::post(path).body(Body::empty()).unwrap();
        let peer = ConnectInfo(SocketAddr::from((peer, 4711)));
        request.extensions_mut().insert(peer);
        let response = app.oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.into()).unwrap())
    }

    const PRODUCTION: [u8; 4] = [127, 0, 1, 1];
    const TEST: [u8; 4] = [127, 0, 3, 1];
    const STRANGER: [u8; 4] = [192, 0, 2, 1];
}
