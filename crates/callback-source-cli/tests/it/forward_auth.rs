//! `serve` with nginx and Caddy, each with its configuration in `docs/forward-auth.md`. Behind nginx or Caddy is a shop
//! that records the requests that reach it.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{Method, StatusCode, Uri},
};
use integration_tests::{
    dns::DnsServer,
    http::{Client, Connection, Reply},
    merchant::Merchant,
    servers::{self, Server as Process},
    within,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::{
    server::Server,
    setup::{LISTED, UNLISTED, admit_one_host, connect, ip, one_host},
};

/// Address of the web server in front of the shop.
const FRONT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "PURGE",
];

const PATH: &str = "/vipps/v2/payments/acme-shop-123?a=b";
const BODY: &[u8] = br#"{"orderId":"acme-shop-123"}"#;

#[tokio::test]
async fn an_admission_is_200_without_a_body_for_every_method() {
    let dns = one_host().await;
    let hosts = admit_one_host(&dns);
    for (flags, peers) in [("", &[LISTED][..]), ("--report-only", &[LISTED, UNLISTED])] {
        let serve = Server::start(&format!("{hosts} {flags}")).await;
        serve.ready().await;
        for peer in peers {
            let mut h2 = Connection::connect_h2(ip(peer), serve.addr).await.unwrap();
            for method in METHODS {
                let what = format!("{method} {flags} {peer}");
                let close = [("connection", "close")];
                let raw = raw(peer, serve.addr, method, "/verify", &close).await;
                let (head, body) = raw.split_once("\r\n\r\n").unwrap();
                assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{what}: {raw}");
                assert!(head.contains("\r\ncontent-length: 0"), "{what}: {raw}");
                assert!(!head.contains("transfer-encoding"), "{what}: {raw}");
                assert_eq!(body, "", "{what}");

                let reply = h2.send(method, "/verify", &[], b"").await.unwrap();
                assert_eq!(reply.status, 200, "{what}");
                assert_eq!(reply.header("content-length"), Some("0"), "{what}");
                assert_eq!(reply.text(), "", "{what}");
            }
        }
        serve.stop().await;
    }
}

#[tokio::test]
async fn a_tunnel_is_never_granted() {
    let dns = one_host().await;
    let hosts = admit_one_host(&dns);
    for flags in ["", "--report-only"] {
        let serve = Server::start(&format!("{hosts} {flags}")).await;
        serve.ready().await;
        for target in ["/verify", "shop.example:443", "http://shop.example/verify"] {
            let reply = raw(
                LISTED,
                serve.addr,
                "CONNECT",
                target,
                &[("connection", "close")],
            )
            .await;
            assert!(reply.starts_with("HTTP/1.1 4"), "{target}: {reply}");
        }
        let mut h2 = Connection::connect_h2(ip(LISTED), serve.addr)
            .await
            .unwrap();
        let reply = h2.send("CONNECT", "/verify", &[], b"").await;
        assert!(reply.unwrap().status >= 400);
        serve.stop().await;
    }
}

#[tokio::test]
async fn nginx_passes_on_the_callbacks_of_listed_clients_only() {
    passes_on_the_callbacks_of_listed_clients_only(Kind::Nginx).await;
}

#[tokio::test]
async fn caddy_passes_on_the_callbacks_of_listed_clients_only() {
    passes_on_the_callbacks_of_listed_clients_only(Kind::Caddy).await;
}

#[tokio::test]
async fn nginx_keeps_its_connection_to_the_endpoint() {
    keeps_its_connection_to_the_endpoint(Kind::Nginx).await;
}

#[tokio::test]
async fn caddy_keeps_its_connection_to_the_endpoint() {
    keeps_its_connection_to_the_endpoint(Kind::Caddy).await;
}

#[tokio::test]
async fn nginx_passes_on_everything_in_report_only_mode() {
    passes_on_everything_in_report_only_mode(Kind::Nginx).await;
}

#[tokio::test]
async fn caddy_passes_on_everything_in_report_only_mode() {
    passes_on_everything_in_report_only_mode(Kind::Caddy).await;
}

#[tokio::test]
async fn nginx_keeps_the_errors_of_the_shop() {
    keeps_the_errors_of_the_shop(Kind::Nginx).await;
}

#[tokio::test]
async fn caddy_keeps_the_errors_of_the_shop() {
    keeps_the_errors_of_the_shop(Kind::Caddy).await;
}

#[tokio::test]
async fn nginx_responds_with_a_retryable_status_until_dns_answers() {
    responds_with_a_retryable_status_until_dns_answers(Kind::Nginx).await;
}

#[tokio::test]
async fn caddy_responds_with_a_retryable_status_until_dns_answers() {
    responds_with_a_retryable_status_until_dns_answers(Kind::Caddy).await;
}

#[tokio::test]
async fn nginx_passes_on_nothing_without_the_endpoint() {
    passes_on_nothing_without_the_endpoint(Kind::Nginx).await;
}

#[tokio::test]
async fn caddy_passes_on_nothing_without_the_endpoint() {
    passes_on_nothing_without_the_endpoint(Kind::Caddy).await;
}

async fn passes_on_the_callbacks_of_listed_clients_only(kind: Kind) {
    let Some([program]) = servers::find([kind.name()]) else {
        return;
    };
    let dns = one_host().await;
    let set_up = SetUp::start(kind, &program, &dns, "").await;
    set_up.serve.ready().await;
    let paid = format!("POST {PATH} {}", String::from_utf8_lossy(BODY));

    assert_eq!(set_up.post(LISTED, &[]).await.status, 200);
    assert_eq!(set_up.seen(), [paid.as_str()]);
    // Forged headers do not affect a listed client.
    for header in forged(UNLISTED) {
        let reply = set_up.post(LISTED, &[header]).await;
        assert_eq!(reply.status, 200, "{header:?}");
        assert_eq!(set_up.seen(), [paid.as_str()], "{header:?}");
    }

    let refused = set_up.post(UNLISTED, &[]).await;
    assert_eq!(refused.status, 403);
    for header in forged(LISTED) {
        let reply = set_up.post(UNLISTED, &[header]).await;
        assert_eq!(reply.status, 403, "{header:?}");
    }
    let all: Vec<_> = forged(LISTED).collect();
    assert_eq!(set_up.post(UNLISTED, &all).await.status, 403);
    assert_eq!(set_up.seen(), [""; 0]);

    // Both clients keep their connections, so their requests may share a connection to the endpoint.
    let addr = set_up.front_addr;
    let mut listed = Connection::connect(ip(LISTED), addr).await.unwrap();
    let mut unlisted = Connection::connect(ip(UNLISTED), addr).await.unwrap();
    for _ in 0..3 {
        for (connection, status) in [(&mut listed, 200), (&mut unlisted, 403)] {
            let chunks = BODY.chunks(7).map(Bytes::from_static);
            let reply = within(connection.send_chunks("POST", PATH, &[], chunks)).await;
            assert_eq!(reply.unwrap().status, status);
        }
    }
    assert_eq!(set_up.seen(), [paid.as_str(); 3]);
    set_up.serve.stop().await;
}

async fn keeps_its_connection_to_the_endpoint(kind: Kind) {
    let Some([program]) = servers::find([kind.name()]) else {
        return;
    };
    let dns = one_host().await;
    let set_up = SetUp::start(kind, &program, &dns, "").await;
    set_up.serve.ready().await;
    for _ in 0..20 {
        assert_eq!(set_up.post(LISTED, &[]).await.status, 200);
        // nginx does not read the text of a refusal, and closes the connection.
        if !matches!(kind, Kind::Nginx) {
            assert_eq!(set_up.post(UNLISTED, &[]).await.status, 403);
        }
    }
    assert_eq!(set_up.relay.connections(), 1);
    set_up.serve.stop().await;
}

async fn passes_on_everything_in_report_only_mode(kind: Kind) {
    let Some([program]) = servers::find([kind.name()]) else {
        return;
    };
    let dns = one_host().await;
    let set_up = SetUp::start(kind, &program, &dns, "--report-only").await;
    set_up.serve.ready().await;
    for client in [LISTED, UNLISTED] {
        assert_eq!(set_up.post(client, &[]).await.status, 200, "{client}");
        assert_eq!(set_up.seen().len(), 1, "{client}");
    }
    set_up.serve.stop().await;
}

async fn keeps_the_errors_of_the_shop(kind: Kind) {
    let Some([program]) = servers::find([kind.name()]) else {
        return;
    };
    let dns = one_host().await;
    let set_up = SetUp::start(kind, &program, &dns, "").await;
    set_up.serve.ready().await;
    for status in [500, 503, 403] {
        let path = format!("/vipps/fails/{status}");
        let client = Client::from(ip(LISTED));
        let reply = client.send(set_up.front_addr, "POST", &path, &[], BODY);
        let reply = within(reply).await.unwrap();
        assert_eq!((reply.status, reply.text().as_str()), (status, "shop"));
        assert_eq!(reply.header("retry-after"), None);
    }
    set_up.serve.stop().await;
}

async fn responds_with_a_retryable_status_until_dns_answers(kind: Kind) {
    let Some([program]) = servers::find([kind.name()]) else {
        return;
    };
    let mut dns = one_host().await;
    dns.pause().await;
    let set_up = SetUp::start(kind, &program, &dns, "").await;
    for client in [LISTED, UNLISTED] {
        let reply = set_up.post(client, &[]).await;
        assert_eq!(reply.status, 503, "{client}");
        assert_eq!(reply.header("retry-after"), Some("5"), "{client}");
        let reason = reply.header("x-callback-reason");
        assert_eq!(reason, Some("unresolved"), "{client}");
    }
    assert_eq!(set_up.seen(), [""; 0]);

    dns.resume().await.unwrap();
    set_up.serve.ready().await;
    assert_eq!(set_up.post(LISTED, &[]).await.status, 200);
    assert_eq!(set_up.seen().len(), 1);
    assert_eq!(set_up.post(UNLISTED, &[]).await.status, 403);
    assert_eq!(set_up.seen(), [""; 0]);
    set_up.serve.stop().await;
}

async fn passes_on_nothing_without_the_endpoint(kind: Kind) {
    let Some([program]) = servers::find([kind.name()]) else {
        return;
    };
    let dns = one_host().await;
    let mut set_up = SetUp::start(kind, &program, &dns, "").await;
    set_up.serve.ready().await;
    set_up.serve.signal("TERM").await;
    set_up.serve.ended().await;
    // The first time, the connection ends without a response. The second time, the connection is refused.
    for _ in 0..2 {
        let reply = set_up.post(LISTED, &[]).await;
        assert_eq!(reply.status, kind.endpoint_down());
        if let Kind::Nginx = kind {
            assert_eq!(reply.header("retry-after"), Some("5"));
            assert_eq!(reply.header("x-callback-reason"), None);
        }
        assert_eq!(set_up.seen(), [""; 0]);
        set_up.relay.tasks.shutdown().await;
    }
}

/// Sends a request to the endpoint. Returns every byte that the endpoint sends until it closes the connection.
async fn raw(
    peer: &str,
    server: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
) -> String {
    let mut stream = connect(peer, server).await.unwrap();
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: shop.example\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream
        .write_all(format!("{head}\r\n").as_bytes())
        .await
        .unwrap();
    let mut reply = String::new();
    within(stream.read_to_string(&mut reply)).await.unwrap();
    reply
}

/// Returns forged headers of a client that claims to be `client`.
fn forged(client: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let forwarded = match client {
        LISTED => "for=127.0.1.1",
        _ => "for=127.0.2.1",
    };
    let verdict = match client {
        LISTED => "allow",
        _ => "reject",
    };
    [
        ("x-forwarded-for", client),
        ("forwarded", forwarded),
        ("x-real-ip", client),
        ("x-callback-source", verdict),
    ]
    .into_iter()
}

/// The endpoint, the shop, and the web server in front of both.
struct SetUp {
    serve: Server,
    relay: Relay,
    shop: Shop,
    front_addr: SocketAddr,
    _front: Process,
}

impl SetUp {
    async fn start(kind: Kind, program: &Path, dns: &DnsServer, flags: &str) -> Self {
        let header = kind.header();
        let hosts = admit_one_host(dns);
        let proxy = format!("--trusted-proxy {FRONT} --client-ip-header {header}");
        let serve = Server::start(&format!("{proxy} {hosts} {flags}")).await;
        let relay = Relay::start(serve.addr).await;
        let shop = Shop::start().await;
        let front = kind.start(program, shop.server.addr(), relay.addr).await;
        let (front_addr, front) = front.unwrap();
        Self {
            serve,
            relay,
            shop,
            front_addr,
            _front: front,
        }
    }

    /// Sends a callback from this address.
    async fn post(&self, client: &str, headers: &[(&str, &str)]) -> Reply {
        let client = Client::from(ip(client));
        let reply = client.send(self.front_addr, "POST", PATH, headers, BODY);
        within(reply).await.unwrap()
    }

    /// Returns the requests that reached the shop since the last call.
    fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.shop.seen.lock().unwrap())
    }
}

/// Relay from the web server to the endpoint. It counts the connections.
struct Relay {
    addr: SocketAddr,
    connections: Arc<AtomicUsize>,
    tasks: JoinSet<()>,
}

impl Relay {
    async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind((FRONT, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let connections = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&connections);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((mut from, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                open.spawn(async move {
                    if let Ok(mut to) = TcpStream::connect(to).await {
                        // When either side closes its connection, the other connection is closed as well.
                        let _ = copy_bidirectional(&mut from, &mut to).await;
                    }
                });
            }
        });
        Self {
            addr,
            connections,
            tasks,
        }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// A shop that records every request.
struct Shop {
    server: Merchant,
    seen: Seen,
}

type Seen = Arc<Mutex<Vec<String>>>;

impl Shop {
    async fn start() -> Self {
        let seen = Seen::default();
        let app = Router::new().fallback(note).with_state(Arc::clone(&seen));
        let server = Merchant::serve(app, (FRONT, 0).into()).await.unwrap();
        Self { server, seen }
    }
}

async fn note(
    State(seen): State<Seen>,
    method: Method,
    uri: Uri,
    body: Bytes,
) -> (StatusCode, &'static str) {
    let body = String::from_utf8_lossy(&body);
    seen.lock().unwrap().push(format!("{method} {uri} {body}"));
    match uri.path().strip_prefix("/vipps/fails/") {
        Some(status) => (status.parse().unwrap(), "shop"),
        None => (StatusCode::OK, "paid"),
    }
}

/// Web server in front of the endpoint and the shop.
#[derive(Clone, Copy)]
enum Kind {
    Nginx,
    Caddy,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Caddy => "caddy",
        }
    }

    /// Header with which the web server passes the client's address to the endpoint.
    fn header(self) -> &'static str {
        match self {
            Self::Nginx => "x-real-ip",
            Self::Caddy => "x-forwarded-for",
        }
    }

    /// Status that the web server returns when the endpoint cannot be reached.
    fn endpoint_down(self) -> u16 {
        match self {
            Self::Nginx => 503,
            Self::Caddy => 502,
        }
    }

    async fn start(
        self,
        program: &Path,
        upstream: SocketAddr,
        verify: SocketAddr,
    ) -> io::Result<(SocketAddr, Process)> {
        servers::on_free_port(FRONT, async |addr| {
            let dir = tempfile::tempdir()?;
            let config = self
                .shown()
                .replace("LISTEN", &addr.to_string())
                .replace("ADDRESS", &addr.ip().to_string())
                .replace("PORT", &addr.port().to_string())
                .replace("UPSTREAM", &upstream.to_string())
                .replace("VERIFY", &verify.to_string());
            let config = self.complete(&config, dir.path());
            fs::write(dir.path().join("config"), config)?;
            let mut server = Process::start(program, self.arguments(), dir)?;
            server.ready(addr).await?;
            Ok((addr, server))
        })
        .await
    }

    /// Returns the part of the configuration that is in the docs. `tests/gateways/matrix.py` runs the same blocks.
    fn shown(self) -> &'static str {
        let page = include_str!("../../../../docs/forward-auth.md");
        let (_, rest) = page
            .split_once(match self {
                Self::Nginx => "<!-- run: nginx server.conf -->",
                Self::Caddy => "<!-- run: caddy Caddyfile -->",
            })
            .unwrap();
        let (_, config) = rest.split("```").nth(1).unwrap().split_once('\n').unwrap();
        config
    }

    /// Returns the complete configuration, with which the web server runs unprivileged in a separate folder.
    fn complete(self, shown: &str, dir: &Path) -> String {
        match self {
            Self::Nginx => {
                let dir = dir.display();
                let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                    .map(|name| format!("{name}_temp_path {dir}/{name};"))
                    .concat();
                format!(
                    "daemon off; master_process off; pid pid; events {{}}\n\
                     http {{ access_log off; {temp}\n{shown}}}\n"
                )
            }
            Self::Caddy => format!("{{\n\tadmin off\n}}\n{shown}"),
        }
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Nginx => &["-e", "stderr", "-p", ".", "-c", "config"],
            Self::Caddy => &["run", "--config", "config", "--adapter", "caddyfile"],
        }
    }
}
