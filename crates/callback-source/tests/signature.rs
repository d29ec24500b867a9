//! Tests of signed deliveries to axum over real sockets.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use axum::{Router, extract::DefaultBodyLimit, routing::post};
use callback_source::{
    AllowList, VerifiedCallback,
    signature::{Secret, VerifySignatureLayer, webhook},
    verify::{ConnectInfoPeer, VerifySourceLayer},
};
use http::HeaderMap;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

fn secret() -> Secret {
    Secret::new("of the registration").unwrap()
}

/// Starts a merchant's service that echoes the body. Returns its address and the counter of its calls.
async fn serve() -> (SocketAddr, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    let handler = async move |proof: VerifiedCallback, body: bytes::Bytes| {
        assert!(proof.allowed().is_some() && proof.message().is_some());
        counter.fetch_add(1, Ordering::Relaxed);
        body
    };
    let list = AllowList::fixed(["127.0.0.1".parse::<std::net::IpAddr>().unwrap()]);
    let hooks = Router::new()
        .route("/hooks/{id}", post(handler))
        .layer(DefaultBodyLimit::disable())
        .layer(VerifySignatureLayer::rejecting(secret()))
        .layer(VerifySourceLayer::rejecting(list, ConnectInfoPeer));
    let app = Router::new().nest("/shop", hooks);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, service).await });
    (address, calls)
}

/// Returns the head of a signed `POST`, without the headers that frame the body.
fn head(address: SocketAddr, path: &str, body: &[u8]) -> String {
    let url = format!("http://{address}{path}").parse().unwrap();
    let headers: HeaderMap = webhook::sign(&secret(), &url, body, SystemTime::now()).unwrap();
    let lines = headers.iter().map(|(name, value)| {
        let value = value.to_str().unwrap();
        format!("{name}: {value}\r\n")
    });
    format!("POST {path} HTTP/1.1\r\n{}", lines.collect::<String>())
}

/// Sends a request. Returns the status and the body of the response, after which the connection is closed.
async fn send(address: SocketAddr, head: &str, framed: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("{head}connection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    // The server may respond and close the connection before it has read everything.
    let _ = stream.write_all(framed).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

#[tokio::test]
async fn a_delivery_is_verified_as_it_is_on_the_wire() {
    let (address, calls) = serve().await;
    let path = "/shop/hooks/bl%C3%A5?a=%20&b";
    let head = head(address, path, b"{\"paid\":1}");

    let whole = format!("{head}content-length: 10\r\n");
    assert_eq!(send(address, &whole, b"{\"paid\":1}").await.0, 200);

    let chunked = format!("{head}transfer-encoding: chunked\r\n");
    let chunks = b"4\r\n{\"pa\r\n6\r\nid\":1}\r\n0\r\nx-trailer: 1\r\n\r\n";
    let (status, body) = send(address, &chunked, chunks).await;
    assert_eq!((status, body.as_str()), (200, "{\"paid\":1}"));
    assert_eq!(calls.load(Ordering::Relaxed), 2);

    let changed = send(address, &whole, b"{\"paid\":9}").await;
    assert_eq!(
        changed,
        (401, "the body is not the one that was signed\n".to_owned())
    );
    let elsewhere = whole.replace("bl%C3%A5", "bl%c3%a5");
    assert_eq!(send(address, &elsewhere, b"{\"paid\":1}").await.0, 401);
    // A client sends the absolute form to a proxy. By RFC 9112 section 3.2.2, servers must accept this form, too.
    let absolute = whole.replace("POST /", &format!("POST http://{address}/"));
    assert_eq!(send(address, &absolute, b"{\"paid\":1}").await.0, 200);
    let other_target = whole.replace("POST /", "POST http://shop.example/");
    assert_eq!(send(address, &other_target, b"{\"paid\":1}").await.0, 401);
    let folded = whole.replace("SignedHeaders=", "\r\n SignedHeaders=");
    assert_eq!(send(address, &folded, b"{\"paid\":1}").await.0, 400);
    let other_host = whole.replace(&format!("host: {address}"), "host: 127.0.0.1");
    assert_eq!(send(address, &other_host, b"{\"paid\":1}").await.0, 401);
    assert_eq!(calls.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_however_it_is_framed() {
    let (address, calls) = serve().await;
    for (length, status) in [(256 * 1024, 200), (256 * 1024 + 1, 413)] {
        let body = vec![b'x'; length];
        let head = head(address, "/shop/hooks/1", &body);
        let whole = format!("{head}content-length: {length}\r\n");
        assert_eq!(send(address, &whole, &body).await.0, status);
        let mut chunk = format!("{length:x}\r\n").into_bytes();
        chunk.extend_from_slice(&body);
        chunk.extend_from_slice(b"\r\n0\r\n\r\n");
        let chunked = format!("{head}transfer-encoding: chunked\r\n");
        assert_eq!(send(address, &chunked, &chunk).await.0, status);
    }
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_sender_that_leaves_within_its_body_does_not_reach_the_handler() {
    let (address, calls) = serve().await;
    let head = head(address, "/shop/hooks/1", b"{}");
    let mut stream = TcpStream::connect(address).await.unwrap();
    let start = format!("{head}content-length: 2\r\n\r\n{{");
    stream.write_all(start.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
    assert_eq!(calls.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn the_body_of_an_unsigned_request_is_not_read() {
    let (address, _) = serve().await;
    let head = format!(
        "POST /shop/hooks/1 HTTP/1.1\r\nhost: {address}\r\ncontent-length: 9\r\nexpect: 100-continue\r\n"
    );
    let (status, _) = send(address, &head, b"").await;
    assert_eq!(status, 401);
}
