//! Connections of `serve`, with clients that are slow, greedy or broken.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::Request;
use integration_tests::http::Connection;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::{
    server::Server,
    setup::{LISTED, UNLISTED, ip},
};

const PROXY: &str = "127.0.5.1";

const SOON: Duration = Duration::from_secs(6);

/// Reads until the server closes the connection, within a time limit.
async fn rest(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let read = timeout(SOON, stream.read_to_end(&mut text)).await;
    let text = String::from_utf8_lossy(&text).to_ascii_lowercase();
    let read: io::Result<_> = read.unwrap_or_else(|_| panic!("it stays open after {text}"));
    read.unwrap_or_else(|error| panic!("{error} after {text}"));
    text
}

/// Sends requests without pause. Opens a new connection whenever the server closes the current connection.
async fn send_without_pause(server: Target, answered: Arc<AtomicUsize>) {
    loop {
        let connected = match server.http2 {
            true => Connection::connect_h2(ip(&server.peer), server.addr).await,
            false => Connection::connect(ip(&server.peer), server.addr).await,
        };
        let mut connection = connected.unwrap();
        while let Ok(reply) = connection
            .send("POST", server.path, &server.headers, b"{}")
            .await
        {
            answered.fetch_add(1, Ordering::Relaxed);
            if reply.header("connection") == Some("close") {
                break;
            }
        }
    }
}

#[derive(Clone)]
struct Target {
    peer: String,
    addr: std::net::SocketAddr,
    path: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    http2: bool,
}

impl Target {
    fn verify(peer: &str, server: &Server) -> Self {
        Self {
            peer: peer.to_owned(),
            addr: server.addr,
            path: "/verify",
            headers: Vec::new(),
            http2: false,
        }
    }
}

/// Starts clients that never pause, and waits until each client has received three responses.
async fn busy(targets: impl IntoIterator<Item = Target>) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    let mut all = Vec::new();
    for target in targets {
        let answered = Arc::<AtomicUsize>::default();
        clients.spawn(send_without_pause(target, Arc::clone(&answered)));
        all.push(answered);
    }
    for answered in all {
        while answered.load(Ordering::Relaxed) < 3 {
            tokio::task::yield_now().await;
        }
    }
    clients
}

#[tokio::test]
async fn permits_rotate_among_clients_that_are_never_slow() {
    let server = Server::admitting_one_host("--max-connections 20").await;
    let _same = busy((0..20).map(|_| Target::verify(UNLISTED, &server))).await;
    for peer in [LISTED, UNLISTED] {
        for _ in 0..3 {
            let reply = timeout(SOON, server.get(peer, "/verify")).await;
            let listed = reply.expect("a permit becomes free").status < 300;
            assert_eq!(listed, peer == LISTED);
        }
    }
    server.has_logged("all connections are in use").await;
    server.stop().await;
}

#[tokio::test]
async fn permits_rotate_among_many_addresses() {
    let server = Server::admitting_one_host("--max-connections 20").await;
    let peer = |number| format!("127.0.2.{}", number + 1);
    let _many = busy((0..20).map(|number| Target::verify(&peer(number), &server))).await;
    for _ in 0..3 {
        let reply = timeout(SOON, server.get(LISTED, "/verify")).await;
        assert!(reply.expect("a permit becomes free").status < 300);
    }
    server.stop().await;
}

#[tokio::test]
async fn permits_rotate_among_http2_connections() {
    let server = Server::admitting_one_host("--max-connections 4").await;
    let target = Target {
        http2: true,
        ..Target::verify(UNLISTED, &server)
    };
    let _busy = busy((0..4).map(|_| target.clone())).await;
    for _ in 0..3 {
        let reply = timeout(SOON, server.get(LISTED, "/verify")).await;
        assert!(reply.expect("a permit becomes free").status < 300);
    }
    server.stop().await;
}

#[tokio::test]
async fn permits_rotate_on_the_admin_listener() {
    let server = Server::admitting_one_host("--admin-listen 127.0.0.1:0").await;
    let target = Target {
        addr: server.admin.unwrap(),
        path: "/healthz",
        ..Target::verify(UNLISTED, &server)
    };
    let _busy = busy((0..64).map(|_| target.clone())).await;
    let operator = async {
        let mut connection = Connection::connect(ip("127.0.0.1"), target.addr).await?;
        connection.send("GET", "/readyz", &[], b"").await
    };
    let reply = timeout(SOON, operator)
        .await
        .expect("a permit becomes free");
    assert_eq!(reply.unwrap().status, 200);
    server.stop().await;
}

#[tokio::test]
async fn clients_that_pipeline_without_reading_lose_their_permits() {
    let server = Server::admitting_one_host("--max-connections 4").await;
    let mut clients = JoinSet::new();
    for number in 0..4 {
        let mut stream = server.stream(UNLISTED).await;
        stream
            .write_all(b"GET /verify HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        stream.read_u8().await.unwrap();
        clients.spawn(async move {
            let (mut reader, mut writer) = stream.split();
            let write = async {
                let requests = b"GET /verify HTTP/1.1\r\nhost: x\r\n\r\n".repeat(100);
                while writer.write_all(&requests).await.is_ok() {}
            };
            let read = async {
                let mut bytes = vec![0; 4096];
                // Half of the clients read no response.
                while number % 2 == 0 && matches!(reader.read(&mut bytes).await, Ok(1..)) {}
            };
            tokio::join!(write, read);
        });
    }
    let reply = timeout(SOON, server.get(LISTED, "/verify")).await;
    assert!(reply.expect("a permit becomes free").status < 300);
    server.stop().await;
}

#[tokio::test]
async fn a_flood_of_one_address_does_not_keep_another_waiting() {
    let server = Server::admitting_one_host("--max-connections 8").await;
    let mut open = Vec::new();
    for begin in [
        "",
        "G",
        "GET /verify HTTP/1.1\r\nx: ",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\u{16}\u{3}\u{1}",
    ] {
        for _ in 0..100 {
            let mut stream = server.stream(UNLISTED).await;
            let _ = stream.write_all(begin.as_bytes()).await;
            open.push(stream);
        }
        let reply = timeout(SOON, server.get(LISTED, "/verify")).await;
        assert!(reply.expect("room is made").status < 300, "{begin:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_trusted_proxy_keeps_its_connections_while_others_crowd_the_server() {
    let flags = format!("--max-connections 8 --trusted-proxy {PROXY} --client-ip-header x-real-ip");
    let server = Server::admitting_one_host(&flags).await;
    let client = [("x-real-ip", LISTED)];
    let mut kept = server.connect(PROXY).await;
    let _busy = busy((0..12).map(|_| Target::verify(UNLISTED, &server))).await;
    server.has_logged("all connections are in use").await;
    for _ in 0..50 {
        let reply = kept.send("POST", "/verify", &client, b"{}").await.unwrap();
        assert!(reply.status < 300);
        assert_eq!(reply.header("connection"), None);
    }
    // New connections of the proxy are also accepted.
    for _ in 0..3 {
        let reply = timeout(SOON, server.send(PROXY, "POST", "/verify", &client)).await;
        assert!(reply.expect("room is made").status < 300);
    }
    server.stop().await;
}

/// Opens a connection from the proxy, and sends a PROXY header that names this client.
async fn proxied(server: &Server, client: &str) -> TcpStream {
    let mut stream = server.stream(PROXY).await;
    let header = format!("PROXY TCP4 {client} 127.0.0.1 1 2\r\n");
    stream.write_all(header.as_bytes()).await.unwrap();
    stream
}

/// A request whose body is incomplete.
const HALF_A_REQUEST: &[u8] = b"POST /verify HTTP/1.1\r\nhost: x\r\ncontent-length: 200\r\n\r\n{";

#[tokio::test]
async fn a_client_behind_a_proxy_has_time_for_its_request_in_a_crowd() {
    let flags = format!("--max-connections 20 --proxy-protocol --trusted-proxy {PROXY}");
    let server = Server::admitting_one_host(&flags).await;
    let mut crowd = Vec::new();
    for _ in 0..19 {
        let mut stream = proxied(&server, UNLISTED).await;
        stream.write_all(HALF_A_REQUEST).await.unwrap();
        crowd.push(stream);
    }
    let mut listed = proxied(&server, LISTED).await;
    for _ in 0..20 {
        let mut stream = proxied(&server, UNLISTED).await;
        stream.write_all(HALF_A_REQUEST).await.unwrap();
        crowd.push(stream);
    }
    let closed = timeout(Duration::from_millis(50), listed.read_u8()).await;
    assert!(closed.is_err(), "{closed:?}");
    let request = b"GET /verify HTTP/1.1\r\nhost: x\r\n\r\n";
    listed.write_all(request).await.unwrap();
    let reply = rest(&mut listed).await;
    assert!(reply.starts_with("http/1.1 2"), "{reply}");
    server.stop().await;
}

#[tokio::test]
async fn a_silent_client_behind_a_proxy_is_closed_after_a_second_in_a_crowd() {
    let flags = format!("--max-connections 20 --proxy-protocol --trusted-proxy {PROXY}");
    let server = Server::admitting_one_host(&flags).await;
    let mut silent = Vec::new();
    // The server is crowded, but not full.
    for number in 1..=18 {
        silent.push(proxied(&server, &format!("127.0.2.{number}")).await);
    }
    for stream in &mut silent {
        assert_eq!(rest(stream).await, "");
    }
    assert!(!server.log().contains("all connections are in use"));
    server.stop().await;
}

#[tokio::test]
async fn busy_connections_of_trusted_proxies_end_only_when_no_other_can() {
    let flags = format!("--max-connections 4 --trusted-proxy {PROXY} --client-ip-header x-real-ip");
    let server = Server::admitting_one_host(&flags).await;
    let target = Target {
        headers: vec![("x-real-ip", LISTED)],
        ..Target::verify(PROXY, &server)
    };
    let _busy = busy((0..4).map(|_| target.clone())).await;
    let reply = timeout(SOON, server.get(LISTED, "/verify")).await;
    assert!(reply.expect("a permit becomes free").status < 300);
    server.stop().await;
}

#[tokio::test]
async fn a_response_before_the_end_of_the_body_announces_the_end_of_the_connection() {
    let server = Server::admitting_one_host("").await;
    let mut tries = Vec::new();
    for path in [
        "/verify",
        "/verify/x",
        "/healthz",
        "/readyz",
        "/status.json",
        "/nothing",
    ] {
        for method in ["GET", "HEAD", "POST", "OPTIONS"] {
            tries.push(format!(
                "{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 200\r\n\r\n"
            ));
        }
    }
    for rest in [
        "HTTP/1.1\r\nhost: x\r\ncontent-length: 200\r\n\r\n{\"half\":",
        "HTTP/1.1\r\nhost: x\r\ncontent-length: 2000000\r\n\r\n",
        "HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n",
        "HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n",
        "HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n",
        "HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.0\r\nconnection: keep-alive\r\ncontent-length: 200\r\n\r\n",
    ] {
        tries.push(format!("POST /verify {rest}"));
    }
    for request in &tries {
        for peer in [LISTED, UNLISTED] {
            let mut stream = server.stream(peer).await;
            stream.write_all(request.as_bytes()).await.unwrap();
            // The client keeps its side of the connection open.
            let reply = rest(&mut stream).await;
            assert_eq!(reply.matches("http/1.").count(), 1, "{request}{reply}");
            assert!(reply.contains("connection: close\r\n"), "{request}{reply}");
            assert!(!reply.contains("keep-alive"), "{request}{reply}");
            assert!(!reply.contains("100 continue"), "{request}{reply}");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_complete_body_keeps_the_connection() {
    let server = Server::admitting_one_host("").await;
    for (head, end) in [
        (
            "GET /verify HTTP/1.1\r\nhost: x\r\n\r\n",
            "connection: close",
        ),
        (
            "GET /verify HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
            "connection: close",
        ),
        (
            "POST /verify HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}",
            "connection: close",
        ),
        (
            "POST /verify HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "connection: close",
        ),
        (
            "POST /verify HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n\
             1\r\n{\r\n1\r\n}\r\n0\r\nx: y\r\n\r\n",
            "connection: close",
        ),
        (
            "POST /verify HTTP/1.0\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\n{}",
            "x: y",
        ),
    ] {
        for peer in [LISTED, UNLISTED] {
            let mut stream = server.stream(peer).await;
            let last = format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{end}\r\n\r\n");
            let last = match head.contains("HTTP/1.0") {
                true => last.replace("1.1", "1.0"),
                false => last,
            };
            let requests = format!("{head}{head}{last}");
            stream.write_all(requests.as_bytes()).await.unwrap();
            let reply = rest(&mut stream).await;
            assert_eq!(reply.matches("http/1.").count(), 3, "{head}{reply}");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_response_reaches_a_client_that_is_still_sending() {
    let server = Server::admitting_one_host("").await;
    let mut stream = server.stream(UNLISTED).await;
    let head = "POST /verify HTTP/1.1\r\nhost: x\r\ncontent-length: 16777216\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
        .write_all(&vec![b'x'; 16 << 20])
        .await
        .expect("the server reads it");
    let reply = rest(&mut stream).await;
    assert!(
        reply.starts_with("http/1.1 403") && reply.ends_with("callbacks"),
        "{reply}"
    );
    server.stop().await;
}

#[tokio::test]
async fn the_time_limit_of_a_head_applies_to_the_first_half_of_a_later_head() {
    let server =
        Server::admitting_one_host(&format!("--proxy-protocol --trusted-proxy {PROXY}")).await;
    let whole = "GET /verify HTTP/1.1\r\nhost: x\r\n\r\n";
    let chunked = "POST /verify HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    let proxied = format!("PROXY TCP4 {LISTED} 127.0.0.1 1 2\r\n");
    let half = "GET /verify HTTP/1.1\r\nho";
    let start = Instant::now();
    let mut slow = JoinSet::new();
    for (peer, bytes, answers) in [
        (LISTED, format!("{whole}{half}"), 1),
        (LISTED, format!("{whole}{whole}{whole}{half}"), 3),
        (LISTED, format!("{whole}\r\n\r\nG"), 1),
        (
            LISTED,
            format!("POST /verify HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{{}}{half}"),
            1,
        ),
        (LISTED, format!("{chunked}2\r\n{{}}\r\n0\r\n\r\n{half}"), 1),
        (
            LISTED,
            format!("{chunked}0\r\nx: y\r\n\r\n{whole}{half}"),
            2,
        ),
        (PROXY, proxied[..20].to_owned(), 0),
        (PROXY, format!("{proxied}{half}"), 0),
        (PROXY, format!("{proxied}{whole}{half}"), 1),
    ] {
        let mut stream = server.stream(peer).await;
        slow.spawn(async move {
            stream.write_all(bytes.as_bytes()).await.unwrap();
            let mut reply = Vec::new();
            // The read also ends when the connection is reset.
            let _ = timeout(Duration::from_secs(20), stream.read_to_end(&mut reply)).await;
            let reply = String::from_utf8_lossy(&reply).into_owned();
            assert_eq!(
                reply.matches("HTTP/1.1 2").count(),
                answers,
                "{bytes}{reply}"
            );
            bytes
        });
    }
    while let Some(ended) = slow.join_next().await {
        let bytes = ended.unwrap();
        let took = start.elapsed();
        let bounds = Duration::from_millis(9_900)..Duration::from_secs(16);
        assert!(bounds.contains(&took), "{took:?} {bytes}");
    }
    server.stop().await;
}

#[tokio::test]
async fn an_idle_connection_is_kept_for_its_time() {
    let server = Server::admitting_one_host("--idle-timeout 1s").await;
    let mut stream = server.stream(LISTED).await;
    let start = Instant::now();
    let request = b"GET /verify HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let reply = rest(&mut stream).await;
    assert!(reply.starts_with("http/1.1 2"), "{reply}");
    assert!(!reply.contains("connection: close"), "{reply}");
    assert!(start.elapsed() >= Duration::from_secs(1));
    server.stop().await;
}

/// Sends HTTP/2 requests whose bodies never end, as fast as the server accepts them.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn http2_streams_that_never_end_their_body_use_no_memory() {
    const CONNECTIONS: usize = 60;
    const STREAMS: usize = 200;
    let server = Server::admitting_one_host("").await;
    server.get(UNLISTED, "/verify").await;
    let before = server.memory();
    let mut clients = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let stream = server.stream(LISTED).await;
        clients.spawn(async move {
            let mut builder = h2::client::Builder::new();
            builder.initial_max_send_streams(1);
            let (mut client, connection) = builder.handshake(stream).await.unwrap();
            let driver = tokio::spawn(connection);
            let mut open = Vec::new();
            for _ in 0..STREAMS {
                client = client.ready().await.unwrap();
                let request = Request::post("http://x/verify").body(()).unwrap();
                let (reply, mut body) = client.send_request(request, false).unwrap();
                let _ = body.send_data(bytes::Bytes::from_static(b"{"), false);
                open.push((reply, body));
            }
            let mut bodies = Vec::new();
            for (reply, body) in open {
                assert!(reply.await.unwrap().status().is_success());
                bodies.push(body);
            }
            (client, driver, bodies)
        });
    }
    let mut open = Vec::new();
    while let Some(client) = clients.join_next().await {
        open.push(client.unwrap());
    }
    let after = server.memory();
    assert!(after < before + 24 * 1024, "{before} KiB, then {after} KiB");
    server.stop().await;
}
