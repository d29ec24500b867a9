//! Tests of requests, bodies and connections over a real socket.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::Poll,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
};
use callback_source::{
    AllowList,
    verify::{ConnectInfoPeer, SocketAddrPeer, VerifySourceLayer},
};
use callback_source_testkit::dns::DnsServer;
use futures_util::StreamExt;
use http::{Request, Response, StatusCode};
use integration_tests::{
    http::{Client, Connection},
    merchant::{Merchant, host_name, tiny_list},
    within,
};
use tower::{Layer, ServiceExt, service_fn};

use crate::common::{HOST, ONE, UNLISTED};

#[tokio::test]
async fn every_method_is_judged() -> io::Result<()> {
    let merchant = Merchant::start(AllowList::fixed([ONE])).await?;
    let send = async |peer, method, path| {
        let client = Client::from(peer);
        within(client.send(merchant.addr(), method, path, &[], b"")).await
    };
    for method in [
        "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "VIPPS",
    ] {
        let path = "/v2/consents/uiJskNQ6qNN1iwN891uuob%3D%3D";
        let reply = send(UNLISTED, method, path).await?;
        assert_eq!(reply.status, 403, "{method}");
        let reply = send(ONE, method, path).await?;
        assert_eq!(reply.status, 200, "{method}");
    }
    assert_eq!(merchant.handled(), 9);
    Ok(())
}

#[tokio::test]
async fn an_unlisted_peer_gets_403_on_unknown_paths_too() -> io::Result<()> {
    let app = Router::new()
        .route("/known", axum::routing::post(async || "handled"))
        .layer(VerifySourceLayer::rejecting(
            AllowList::fixed([ONE]),
            ConnectInfoPeer,
        ));
    let merchant = Merchant::serve(app, (Ipv4Addr::LOCALHOST, 0).into()).await?;
    let client = Client::from(UNLISTED);
    for path in [
        "/known",
        "/unknown",
        "/known/../unknown",
        "//",
        "/known?x=1",
    ] {
        let reply = within(client.send(merchant.addr(), "POST", path, &[], b"")).await?;
        assert_eq!(reply.status, 403, "{path}");
    }
    Ok(())
}

#[tokio::test]
async fn each_request_of_a_connection_is_judged_for_itself() -> io::Result<()> {
    for http2 in [false, true] {
        let dns = DnsServer::start().await?;
        dns.set(HOST, 60, &[ONE]);
        dns.set("callback-2.example", 60, &[[127, 0, 1, 2].into()]);
        let list = tiny_list(&[HOST, "callback-2.example"]).spawn(dns.resolver());
        within(list.ready()).await;
        let merchant = Merchant::start(list.clone()).await?;
        let mut connection = match http2 {
            false => within(Connection::connect(ONE, merchant.addr())).await?,
            true => within(Connection::connect_h2(ONE, merchant.addr())).await?,
        };

        let reply = within(connection.send("POST", "/", &[], b"1")).await?;
        assert_eq!(reply.status, 200);
        list.replace_hosts([host_name("callback-2.example")]);
        // The request has no body, since a refusal that leaves a body unread ends the connection.
        let reply = within(connection.send("POST", "/", &[], b"")).await?;
        assert_eq!(reply.status, 403, "HTTP/2: {http2}");
        list.replace_hosts([HOST, "callback-2.example"].map(host_name));
        within(list.changes().next()).await;
        let reply = within(connection.send("POST", "/", &[], b"3")).await?;
        assert_eq!(reply.status, 200, "HTTP/2: {http2}");
        assert_eq!(merchant.handled(), 2);
    }
    Ok(())
}

#[tokio::test]
async fn the_body_of_a_callback_arrives_unchanged() -> io::Result<()> {
    let merchant = Merchant::start(AllowList::fixed([ONE])).await?;
    let body: Vec<u8> = (0..1024 * 1024_u32)
        .map(|at| (at * 31 % 251) as u8)
        .collect();
    for http2 in [false, true] {
        let mut connection = match http2 {
            false => within(Connection::connect(ONE, merchant.addr())).await?,
            true => within(Connection::connect_h2(ONE, merchant.addr())).await?,
        };
        let chunks: Vec<_> = body.chunks(7919).map(Bytes::copy_from_slice).collect();
        let reply = within(connection.send_chunks("POST", "/", &[], chunks)).await?;
        assert_eq!(reply.status, 200);
        assert!(reply.body == body, "HTTP/2: {http2}");
    }
    Ok(())
}

/// The handler responds with the first chunk of a body whose second chunk is never sent.
#[tokio::test]
async fn the_body_of_a_callback_is_streamed() {
    let service = VerifySourceLayer::rejecting(AllowList::fixed([ONE]), SocketAddrPeer).layer(
        service_fn(async |request: Request<Body>| {
            let mut pieces = request.into_body().into_data_stream();
            let first = pieces.next().await.expect("there is one piece")?;
            Ok::<_, axum::Error>(Response::new(first))
        }),
    );
    let first = futures_util::stream::iter([Ok::<_, io::Error>(Bytes::from_static(b"first"))]);
    let body = Body::from_stream(first.chain(futures_util::stream::pending()));

    let response = within(service.oneshot(from(ONE, body))).await;

    assert_eq!(
        response.map(Response::into_body).ok().as_deref(),
        Some(&b"first"[..])
    );
}

#[tokio::test]
async fn the_body_of_a_refused_request_is_not_read() {
    let read = Arc::new(AtomicBool::new(false));
    let service = VerifySourceLayer::rejecting(AllowList::fixed([ONE]), SocketAddrPeer).layer(
        service_fn(async |_: Request<Body>| Ok::<_, io::Error>(Response::new(Body::empty()))),
    );
    let watched = Arc::clone(&read);
    let body = futures_util::stream::poll_fn(move |_| {
        watched.store(true, Ordering::SeqCst);
        Poll::Ready(Some(Ok::<_, io::Error>(Bytes::from_static(b"x"))))
    });

    let response = within(service.oneshot(from(UNLISTED, Body::from_stream(body)))).await;

    let status = response.map(|response| response.status()).ok();
    assert_eq!(status, Some(StatusCode::FORBIDDEN));
    assert!(!read.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_refusal_does_not_wait_for_the_rest_of_a_body() -> io::Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let merchant = Merchant::start(AllowList::fixed([ONE])).await?;
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::new(127, 0, 66, 6), 0).into())?;
    let mut stream = within(socket.connect(merchant.addr())).await?;
    let head = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\nonly this much";
    stream.write_all(head.as_bytes()).await?;

    let mut start = [0; 12];
    within(stream.read_exact(&mut start)).await?;

    assert_eq!(&start, b"HTTP/1.1 403");
    assert_eq!(merchant.handled(), 0);
    Ok(())
}

#[tokio::test]
async fn an_upgrade_request_is_judged_too() -> io::Result<()> {
    let merchant = Merchant::start(AllowList::fixed([ONE])).await?;
    let headers = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let mut connection = within(Connection::connect(UNLISTED, merchant.addr())).await?;
    let reply = within(connection.send("GET", "/", &headers, b"")).await?;
    assert_eq!(reply.status, 403);
    assert_eq!(merchant.handled(), 0);
    Ok(())
}

#[tokio::test]
async fn unlisted_peers_do_not_delay_a_callback_server() -> io::Result<()> {
    let dns = DnsServer::start().await?;
    dns.set(HOST, 60, &[ONE]);
    let list = tiny_list(&[HOST]).spawn(dns.resolver());
    within(list.ready()).await;
    let merchant = Merchant::start(list).await?;

    let unlisted = (0..50_u8).map(|last| merchant.post([127, 0, 77, last].into(), &[], b"{}"));
    let unlisted = futures_util::future::join_all(unlisted);
    let listed = async {
        for _ in 0..20 {
            let reply = merchant.post(ONE, &[], b"{}").await;
            assert_eq!(reply.map(|reply| reply.status).ok(), Some(200));
        }
    };
    let (refused, ()) = tokio::join!(unlisted, listed);

    for reply in refused {
        assert_eq!(reply?.status, 403);
    }
    assert_eq!(merchant.handled(), 20);
    Ok(())
}

#[tokio::test]
async fn a_route_outside_the_layer_is_open_and_its_neighbour_is_not() -> io::Result<()> {
    let count = Arc::new(AtomicUsize::new(0));
    let app = Router::new()
        .route("/callback", axum::routing::post(counted))
        .layer(VerifySourceLayer::rejecting(
            AllowList::fixed([ONE]),
            ConnectInfoPeer,
        ))
        .route("/health", axum::routing::post(counted))
        .with_state(Arc::clone(&count));
    let merchant = Merchant::serve(app, (Ipv4Addr::LOCALHOST, 0).into()).await?;
    let client = Client::from(UNLISTED);
    let reply = within(client.send(merchant.addr(), "POST", "/health", &[], b"")).await?;
    assert_eq!(reply.status, 200);
    let reply = within(client.send(merchant.addr(), "POST", "/callback", &[], b"")).await?;
    assert_eq!(reply.status, 403);
    assert_eq!(count.load(Ordering::SeqCst), 1);
    Ok(())
}

async fn counted(State(count): State<Arc<AtomicUsize>>) {
    count.fetch_add(1, Ordering::SeqCst);
}

fn from(peer: IpAddr, body: Body) -> Request<Body> {
    let mut request = Request::new(body);
    request
        .extensions_mut()
        .insert(std::net::SocketAddr::new(peer, 4711));
    request
}
