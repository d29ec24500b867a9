use std::{
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use super::{Client, Connection};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response,
    body::{Frame, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpListener, task::JoinSet};

const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

#[tokio::test]
async fn comes_from_the_chosen_address() -> io::Result<()> {
    let (server, _tasks) = echo(Protocol::Http1).await?;
    let client = Client::from(SOURCE);

    let reply = client.send(server, "POST", "/a?b", &[], b"hello").await?;

    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("X-Peer").map(ip), Some(SOURCE));
    assert_eq!(reply.header("x-asked"), Some("POST /a?b"));
    assert_eq!(reply.header("x-absent"), None);
    assert_eq!(reply.text(), "hello");
    Ok(())
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn comes_from_any_loopback_address() -> io::Result<()> {
    let (server, _tasks) = echo(Protocol::Http1).await?;
    let source = IpAddr::from([127, 0, 0, 9]);

    let client = Client::from(source);
    let reply = client.send(server, "GET", "/", &[], b"").await?;

    assert_eq!(reply.header("x-peer").map(ip), Some(source));
    Ok(())
}

#[tokio::test]
async fn keeps_the_connection() -> io::Result<()> {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let (server, _tasks) = echo(protocol).await?;
        let mut connection = protocol.connect(server).await?;
        for body in ["first", "second", ""] {
            let reply = connection.send("POST", "/", &[], body.as_bytes()).await?;
            let peer = reply.header("x-peer").map(str::to_owned);
            assert_eq!(peer, Some(connection.local_addr().to_string()));
            assert_eq!(reply.text(), body);
        }
        assert!(!connection.is_closed());
    }
    Ok(())
}

#[tokio::test]
async fn sends_a_header_as_often_as_given() -> io::Result<()> {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let (server, _tasks) = echo(protocol).await?;
        let headers = [("x-sent", "a"), ("X-Sent", "b, c")];
        let mut connection = protocol.connect(server).await?;
        let reply = connection.send("GET", "/", &headers, b"").await?;
        assert_eq!(reply.header("x-received"), Some("a; b, c"));
    }
    Ok(())
}

#[tokio::test]
async fn streams_a_big_body_in_chunks() -> io::Result<()> {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let (server, _tasks) = echo(protocol).await?;
        let chunks = (0..64_u8).map(|n| Bytes::from(vec![n; 16 * 1024]));
        let mut connection = protocol.connect(server).await?;
        let reply = connection.send_chunks("POST", "/", &[], chunks).await?;
        assert_eq!(reply.body.len(), 1024 * 1024);
        assert_eq!(reply.body.last(), Some(&63));
    }
    Ok(())
}

#[tokio::test]
async fn reads_a_body_of_known_length() -> io::Result<()> {
    let (server, _tasks) = echo(Protocol::Http1).await?;
    let client = Client::from(SOURCE);
    let reply = client.send(server, "PUT", "/whole", &[], b"1234").await?;
    assert_eq!(reply.header("content-length"), Some("4"));
    assert_eq!(reply.text(), "1234");
    Ok(())
}

#[tokio::test]
async fn rejects_an_invalid_header() -> io::Result<()> {
    let (server, _tasks) = echo(Protocol::Http1).await?;
    let client = Client::from(SOURCE);
    let headers = [("x-sent", "a\r\nx-smuggled: b")];
    let reply = client.send(server, "GET", "/", &headers, b"").await;
    assert_eq!(
        reply.map_err(|error| error.kind()).err(),
        Some(io::ErrorKind::InvalidInput)
    );
    Ok(())
}

#[derive(Clone, Copy)]
enum Protocol {
    Http1,
    Http2,
}

impl Protocol {
    async fn connect(self, server: SocketAddr) -> io::Result<Connection> {
        match self {
            Self::Http1 => Connection::connect(SOURCE, server).await,
            Self::Http2 => Connection::connect_h2(SOURCE, server).await,
        }
    }
}

/// Starts a server that echoes the body of a request. It sends the body as a whole for `PUT`, and in chunks for other
/// methods.
async fn echo(protocol: Protocol) -> io::Result<(SocketAddr, JoinSet<()>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let addr = listener.local_addr()?;
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, peer)) = listener.accept().await {
            let service = service_fn(move |request| answer(request, peer));
            let io = TokioIo::new(stream);
            connections.spawn(async move {
                match protocol {
                    Protocol::Http1 => http1::Builder::new().serve_connection(io, service).await,
                    Protocol::Http2 => {
                        let builder = http2::Builder::new(TokioExecutor::new());
                        builder.serve_connection(io, service).await
                    }
                }
            });
        }
    });
    Ok((addr, server))
}

async fn answer(
    request: Request<Incoming>,
    peer: SocketAddr,
) -> hyper::Result<Response<UnsyncBoxBody<Bytes, Infallible>>> {
    let (head, body) = request.into_parts();
    let body = Full::new(body.collect().await?.to_bytes());
    let body = if head.method == "PUT" {
        body.boxed_unsync()
    } else {
        let frame = body
            .collect()
            .await
            .map(|body| Frame::data(body.to_bytes()));
        StreamBody::new(stream::iter([frame])).boxed_unsync()
    };
    let mut response = Response::new(body);
    let sent = head.headers.get_all("x-sent").iter();
    let sent: Vec<_> = sent.filter_map(|value| value.to_str().ok()).collect();
    for (name, value) in [
        ("x-peer", peer.to_string()),
        ("x-asked", format!("{} {}", head.method, head.uri)),
        ("x-received", sent.join("; ")),
    ] {
        let value = value.parse().expect("printable");
        response.headers_mut().insert(name, value);
    }
    Ok(response)
}

fn ip(peer: &str) -> IpAddr {
    peer.parse::<SocketAddr>().expect("an address").ip()
}
