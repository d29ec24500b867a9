//! Tests of the layer behind the proxies that merchants use. Each proxy has the configuration that
//! `docs/behind-a-proxy.md` shows.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use axum::{
    Router,
    extract::{ConnectInfo, Request},
    middleware::{self, Next},
    response::Response,
    serve::ListenerExt,
};
use callback_source::{
    AllowList, Allowed,
    verify::{
        ConnectInfoPeer, ForwardedPeer, PeerIp, TrustedProxies, UnixConnection, UnixPeer,
        VerifySourceLayer, proxy_protocol::ProxyProtocolListener,
    },
};
use hyper::header::{HeaderName, HeaderValue};
use integration_tests::{
    http::{Client, Connection, Reply},
    log::Log,
    servers::{self, Server},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, UnixListener, UnixStream},
    task::JoinSet,
    time::timeout,
};

/// The callback server, an unlisted peer, and the address from which every proxy here connects.
const LISTED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));
const LISTED_6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
const UNLISTED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 66));
const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

type TestResult = Result<(), Box<dyn std::error::Error>>;

#[tokio::test]
async fn nginx_appends_to_x_forwarded_for() -> TestResult {
    let config = include_str!("../proxies/nginx-x-forwarded-for.conf");
    behind(Kind::Nginx, config, Source::XForwardedFor, Upstream::Shared).await?;
    behind_two(
        Kind::Nginx,
        config,
        Kind::Nginx,
        config,
        Source::XForwardedFor,
    )
    .await
}

#[tokio::test]
async fn nginx_writes_x_real_ip() -> TestResult {
    let config = include_str!("../proxies/nginx-x-real-ip.conf");
    behind(Kind::Nginx, config, Source::RealIp, Upstream::Shared).await
}

#[tokio::test]
async fn nginx_appends_to_forwarded_with_a_map() -> TestResult {
    let config = include_str!("../proxies/nginx-forwarded.conf");
    behind(Kind::Nginx, config, Source::Forwarded, Upstream::Shared).await?;
    behind_two(Kind::Nginx, config, Kind::Nginx, config, Source::Forwarded).await
}

#[tokio::test]
async fn nginx_speaks_the_proxy_protocol() -> TestResult {
    let config = include_str!("../proxies/nginx-proxy-protocol.conf");
    behind(
        Kind::NginxStream,
        config,
        Source::ProxyProtocol,
        Upstream::OneEach,
    )
    .await
}

#[tokio::test]
async fn nginx_in_front_of_a_unix_socket() -> TestResult {
    let Some(program) = Kind::Nginx.find() else {
        return Ok(());
    };
    let dir = tempfile::tempdir()?;
    let socket = dir.path().join("callbacks.sock");
    let listener = UnixListener::bind(&socket)?;
    let app = app(ForwardedPeer::x_forwarded_for(
        UnixPeer,
        TrustedProxies::none(),
    ));
    let app = app.into_make_service_with_connect_info::<UnixConnection>();
    let mut server = JoinSet::new();
    server.spawn(async { axum::serve(listener, app).await });

    let config = include_str!("../proxies/nginx-unix-socket.conf");
    let config = config.replace("SOCKET", &socket.to_string_lossy());
    let proxy = Kind::Nginx.start(&program, &config, NOWHERE).await?;
    clients_are_distinguished(&proxy).await?;
    malformed_headers_change_no_verdict(proxy.addr).await
}

#[tokio::test]
async fn haproxy_adds_a_line_of_x_forwarded_for() -> TestResult {
    let config = include_str!("../proxies/haproxy-x-forwarded-for.cfg");
    behind(
        Kind::HaProxy,
        config,
        Source::XForwardedFor,
        Upstream::Shared,
    )
    .await?;
    behind_two(
        Kind::HaProxy,
        config,
        Kind::HaProxy,
        config,
        Source::XForwardedFor,
    )
    .await
}

#[tokio::test]
async fn haproxy_adds_a_line_of_forwarded() -> TestResult {
    let config = include_str!("../proxies/haproxy-forwarded.cfg");
    behind(Kind::HaProxy, config, Source::Forwarded, Upstream::Shared).await?;
    behind_two(
        Kind::HaProxy,
        config,
        Kind::HaProxy,
        config,
        Source::Forwarded,
    )
    .await
}

#[tokio::test]
async fn haproxy_speaks_http_2_to_the_service() -> TestResult {
    let config = include_str!("../proxies/haproxy-h2.cfg");
    behind(
        Kind::HaProxy,
        config,
        Source::XForwardedFor,
        Upstream::Http2,
    )
    .await
}

#[tokio::test]
async fn haproxy_sends_version_1_of_the_proxy_protocol() -> TestResult {
    let config = include_str!("../proxies/haproxy-proxy-v1.cfg");
    behind(
        Kind::HaProxy,
        config,
        Source::ProxyProtocol,
        Upstream::OneEach,
    )
    .await
}

#[tokio::test]
async fn haproxy_sends_version_2_of_the_proxy_protocol() -> TestResult {
    let config = include_str!("../proxies/haproxy-proxy-v2.cfg");
    behind(
        Kind::HaProxy,
        config,
        Source::ProxyProtocol,
        Upstream::OneEach,
    )
    .await?;
    let inner = include_str!("../proxies/haproxy-proxy-inner.cfg");
    behind_two(
        Kind::HaProxy,
        config,
        Kind::HaProxy,
        inner,
        Source::ProxyProtocol,
    )
    .await?;
    let outer = include_str!("../proxies/nginx-proxy-protocol.conf");
    behind_two(
        Kind::NginxStream,
        outer,
        Kind::HaProxy,
        inner,
        Source::ProxyProtocol,
    )
    .await
}

#[tokio::test]
async fn haproxy_without_the_header_is_disconnected() -> TestResult {
    let Some(program) = Kind::HaProxy.find() else {
        return Ok(());
    };
    let service = Service::start(Source::ProxyProtocol).await?;
    let config = include_str!("../proxies/haproxy-proxy-v1.cfg").replace(" send-proxy", "");
    let proxy = Kind::HaProxy.start(&program, &config, service.addr).await?;
    for client in [LISTED, UNLISTED] {
        let reply = Client::from(client)
            .send(proxy.addr, "GET", "/", &[], b"")
            .await;
        assert!(reply.is_err(), "{reply:?}");
    }
    Ok(())
}

#[tokio::test]
async fn caddy_writes_x_forwarded_for() -> TestResult {
    let config = include_str!("../proxies/caddy.Caddyfile");
    behind(Kind::Caddy, config, Source::XForwardedFor, Upstream::Shared).await?;
    let inner = include_str!("../proxies/caddy-inner.Caddyfile");
    behind_two(
        Kind::Caddy,
        config,
        Kind::Caddy,
        inner,
        Source::XForwardedFor,
    )
    .await
}

#[tokio::test]
async fn caddy_speaks_http_2_to_the_service() -> TestResult {
    let config = include_str!("../proxies/caddy-h2c.Caddyfile");
    behind(Kind::Caddy, config, Source::XForwardedFor, Upstream::Http2).await
}

#[tokio::test]
async fn apache_appends_to_x_forwarded_for() -> TestResult {
    let config = include_str!("../proxies/apache.conf");
    behind(
        Kind::Apache,
        config,
        Source::XForwardedFor,
        Upstream::Shared,
    )
    .await?;
    behind_two(
        Kind::Apache,
        config,
        Kind::Apache,
        config,
        Source::XForwardedFor,
    )
    .await
}

#[tokio::test]
async fn different_proxies_in_a_row_append_to_each_other() -> TestResult {
    let nginx = include_str!("../proxies/nginx-x-forwarded-for.conf");
    let haproxy = include_str!("../proxies/haproxy-x-forwarded-for.cfg");
    let apache = include_str!("../proxies/apache.conf");
    let source = Source::XForwardedFor;
    behind_two(Kind::Nginx, nginx, Kind::HaProxy, haproxy, source).await?;
    behind_two(Kind::HaProxy, haproxy, Kind::Apache, apache, source).await?;
    behind_two(Kind::Apache, apache, Kind::Nginx, nginx, source).await
}

#[tokio::test]
async fn every_proxy_names_clients_of_ipv6() -> TestResult {
    if TcpListener::bind((LISTED_6, 0)).await.is_err() {
        servers::skip("this machine has no IPv6");
        return Ok(());
    }
    macro_rules! config {
        ($name:literal) => {
            include_str!(concat!("../proxies/", $name))
        };
    }
    for (kind, config, source) in [
        (
            Kind::Nginx,
            config!("nginx-x-forwarded-for.conf"),
            Source::XForwardedFor,
        ),
        (Kind::Nginx, config!("nginx-x-real-ip.conf"), Source::RealIp),
        (
            Kind::Nginx,
            config!("nginx-forwarded.conf"),
            Source::Forwarded,
        ),
        (
            Kind::NginxStream,
            config!("nginx-proxy-protocol.conf"),
            Source::ProxyProtocol,
        ),
        (
            Kind::HaProxy,
            config!("haproxy-x-forwarded-for.cfg"),
            Source::XForwardedFor,
        ),
        (
            Kind::HaProxy,
            config!("haproxy-forwarded.cfg"),
            Source::Forwarded,
        ),
        (
            Kind::HaProxy,
            config!("haproxy-proxy-v1.cfg"),
            Source::ProxyProtocol,
        ),
        (
            Kind::HaProxy,
            config!("haproxy-proxy-v2.cfg"),
            Source::ProxyProtocol,
        ),
        (
            Kind::Caddy,
            config!("caddy.Caddyfile"),
            Source::XForwardedFor,
        ),
        (Kind::Apache, config!("apache.conf"), Source::XForwardedFor),
    ] {
        let Some(program) = kind.find() else {
            continue;
        };
        let service = Service::start(source).await?;
        let proxy = kind
            .start_at(LISTED_6, &program, config, service.addr)
            .await?;
        let reply = Client::from(LISTED_6)
            .send(proxy.addr, "POST", "/", FORGED, b"")
            .await?;
        assert_eq!(
            (reply.status, text(&reply)),
            (200, "paid by ::1"),
            "{config}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_unix_socket_is_a_proxy_and_a_port_is_not() -> TestResult {
    let app = app(ForwardedPeer::x_forwarded_for(
        UnixPeer,
        TrustedProxies::none(),
    ));
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("callbacks.sock");
    let socket = UnixListener::bind(&path)?;
    let port = TcpListener::bind((PROXY, 0)).await?;
    let addr = port.local_addr()?;
    let mut servers = JoinSet::new();
    let behind_socket = app
        .clone()
        .into_make_service_with_connect_info::<UnixConnection>();
    servers.spawn(async { axum::serve(socket, behind_socket).await });
    let behind_port = app.into_make_service_with_connect_info::<SocketAddr>();
    servers.spawn(async { axum::serve(port, behind_port).await });

    for (header, status) in [
        ("X-Forwarded-For: 127.0.0.66, 127.0.0.11\r\n", "200"),
        ("X-Forwarded-For: 127.0.0.11, 127.0.0.66\r\n", "403"),
        ("Forwarded: for=127.0.0.11\r\n", "400"),
        ("", "400"),
    ] {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{header}\r\n");
        let mut stream = UnixStream::connect(&path).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
    }
    assert_eq!(status(LISTED, addr, FORGED).await?, 500);
    Ok(())
}

// The connection ends, since the body is not read. Without `Connection: close`, a proxy would send the next request on
// the closing connection and respond with 502. That request may be a genuine callback.
#[tokio::test]
async fn a_refusal_that_leaves_a_body_unread_announces_the_close() -> TestResult {
    let service = Service::start(Source::XForwardedFor).await?;
    let mut listed = Connection::connect(LISTED, service.addr).await?;
    for (head, closes) in [
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n",
            true,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            true,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            false,
        ),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", false),
    ] {
        let answer = raw(UNLISTED, service.addr, head.as_bytes()).await?;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        assert_eq!(
            answer.contains("connection: close"),
            closes,
            "{head}{answer}"
        );
        let reply = listed.send("POST", "/", &[], b"1").await?;
        assert_eq!((reply.status, reply.header("connection")), (200, None));
    }
    let mut unlisted = Connection::connect_h2(UNLISTED, service.addr).await?;
    for _ in 0..2 {
        assert_eq!(unlisted.send("POST", "/", &[], b"1").await?.status, 403);
    }
    Ok(())
}

#[tokio::test]
async fn a_missing_header_of_a_proxy_is_logged() -> TestResult {
    let log = Log::capture();
    let service = Service::start(Source::XForwardedFor).await?;
    let headers = [("x-forwarded-for", "127.0.0.11, unknown")];
    assert_eq!(status(PROXY, service.addr, &headers).await?, 400);
    let lines = log.lines(
        "WARN",
        &["callback refused", "peer=127.0.0.1", "forwarded-malformed"],
    );
    assert_eq!(lines.len(), 1);

    let service = Service::start(Source::ProxyProtocol).await?;
    assert!(status(PROXY, service.addr, &[]).await.is_err());
    let lines = log.lines(
        "WARN",
        &["PROXY protocol", "peer=127.0.0.1", "reason=\"missing\""],
    );
    assert_eq!(lines.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_server_that_does_not_start_reports_its_log() -> TestResult {
    let Some(program) = Kind::HaProxy.find() else {
        return Ok(());
    };
    let started = Kind::HaProxy
        .start(&program, "nonsense here\n", NOWHERE)
        .await;
    let error = started
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default();
    assert!(error.contains("'nonsense'"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_client_that_bypasses_the_proxy_is_the_peer() -> TestResult {
    let header = "PROXY TCP4 127.0.0.11 127.0.0.1 1 80\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for source in Source::ALL {
        let service = Service::start(source).await?;
        for headers in [&[][..], FORGED] {
            assert_eq!(
                status(LISTED, service.addr, headers).await?,
                200,
                "{source:?}"
            );
            assert_eq!(
                status(UNLISTED, service.addr, headers).await?,
                403,
                "{source:?}"
            );
        }
        let answer = raw(UNLISTED, service.addr, header.as_bytes()).await?;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{source:?}: {answer}");
    }
    Ok(())
}

#[test]
fn the_page_shows_the_configurations_that_are_tested() -> TestResult {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(tests.join("../docs/behind-a-proxy.md"))?;
    for entry in fs::read_dir(tests.join("proxies"))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let config = fs::read_to_string(entry.path())?;
        assert!(page.contains(&config), "{name} is not on the page");
    }
    Ok(())
}

/// Asserts the rules that apply to every proxy. The service behind the proxy reads the client's address from this
/// source.
async fn behind(kind: Kind, config: &str, source: Source, upstream: Upstream) -> TestResult {
    let Some(program) = kind.find() else {
        return Ok(());
    };
    let service = Service::start(source).await?;
    let proxy = kind.start(&program, config, service.addr).await?;
    clients_are_distinguished(&proxy).await?;
    connections_are_judged_by_request(proxy.addr, upstream).await?;
    malformed_headers_change_no_verdict(proxy.addr).await
}

/// Asserts the rules for clients and for malformed headers behind a chain of two proxies.
async fn behind_two(
    outer: Kind,
    outer_config: &str,
    inner: Kind,
    inner_config: &str,
    source: Source,
) -> TestResult {
    let (Some(outer_program), Some(inner_program)) = (outer.find(), inner.find()) else {
        return Ok(());
    };
    let service = Service::start(source).await?;
    let inner = inner
        .start(&inner_program, inner_config, service.addr)
        .await?;
    let outer = outer
        .start(&outer_program, outer_config, inner.addr)
        .await?;
    clients_are_distinguished(&outer).await?;
    malformed_headers_change_no_verdict(outer.addr).await
}

async fn clients_are_distinguished(proxy: &Proxy) -> TestResult {
    let log = || proxy.server.log();
    let proxy = proxy.addr;
    let misleading = [
        ("x-forwarded-for", "127.0.0.66"),
        ("x-real-ip", "127.0.0.66"),
        ("forwarded", "for=127.0.0.66, for=\"left open"),
    ];
    for headers in [&[][..], FORGED, &misleading] {
        let listed = Client::from(LISTED)
            .send(proxy, "POST", "/paid", headers, b"1")
            .await?;
        assert_eq!(
            (listed.status, text(&listed)),
            (200, "paid by 127.0.0.11"),
            "{headers:?} {}",
            log()
        );
        let unlisted = Client::from(UNLISTED)
            .send(proxy, "POST", "/paid", headers, b"1")
            .await?;
        // Caddy responds with 502 if the connection ends before Caddy has sent the body.
        assert!(
            [403, 502].contains(&unlisted.status),
            "{headers:?} {}",
            log()
        );
    }
    // A client that makes the proxy remove the proxy's own header is refused, too.
    for name in ["X-Forwarded-For", "X-Real-IP", "Forwarded"] {
        let forged = [FORGED, &[("connection", name)]].concat();
        let mut connection = Connection::connect(UNLISTED, proxy).await?;
        let unlisted = connection.send("GET", "/", &forged, b"").await?;
        assert!(
            [400, 403].contains(&unlisted.status),
            "{name}: {unlisted:?}"
        );
    }
    Ok(())
}

async fn connections_are_judged_by_request(proxy: SocketAddr, upstream: Upstream) -> TestResult {
    let mut listed = Connection::connect(LISTED, proxy).await?;
    let mut unlisted = Connection::connect(UNLISTED, proxy).await?;
    let mut seen: HashMap<String, HashSet<u16>> = HashMap::new();
    for _ in 0..10 {
        for (connection, status) in [(&mut listed, 200), (&mut unlisted, 403)] {
            let reply = connection.send("GET", "/", &[], b"").await?;
            assert_eq!(reply.status, status);
            let version = if upstream == Upstream::Http2 {
                "HTTP/2.0"
            } else {
                "HTTP/1.1"
            };
            assert_eq!(reply.header("x-version"), Some(version));
            let connection = reply.header("x-connection").unwrap_or_default();
            seen.entry(connection.to_owned())
                .or_default()
                .insert(status);
        }
    }
    let both = seen.values().any(|statuses| statuses.len() == 2);
    assert_eq!(both, upstream != Upstream::OneEach, "{seen:?}");
    Ok(())
}

async fn malformed_headers_change_no_verdict(proxy: SocketAddr) -> TestResult {
    for nonsense in [
        b"NONSENSE\r\n\r\n".as_slice(),
        b"GET / HTTP/1.1 twice\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For : 127.0.0.11\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 127.0.0.11\r\n 127.0.0.11\r\n\r\n",
        b"PROXY TCP4 127.0.0.11 127.0.0.1 1 80\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x0b\x7f\0\0\x01\0\x01\0\x50GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0",
    ] {
        let answer = raw(UNLISTED, proxy, nonsense).await?;
        // Caddy responds with 200 to a client that has closed its side of the connection.
        assert!(!answer.contains("paid by"), "{answer}");
        assert_eq!(status(LISTED, proxy, &[]).await?, 200);
        assert_eq!(status(UNLISTED, proxy, &[]).await?, 403);
    }
    Ok(())
}

async fn status(client: IpAddr, server: SocketAddr, headers: &[(&str, &str)]) -> io::Result<u16> {
    let reply = Client::from(client)
        .send(server, "GET", "/", headers, b"")
        .await?;
    Ok(reply.status)
}

/// Returns the text that the handler replied with.
fn text(reply: &Reply) -> &str {
    str::from_utf8(&reply.body).unwrap_or_default()
}

/// Returns the bytes that arrive within 2 s in reply to these bytes.
async fn raw(client: IpAddr, server: SocketAddr, bytes: &[u8]) -> io::Result<String> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(client, 0))?;
    let mut stream = socket.connect(server).await?;
    stream.write_all(bytes).await?;
    stream.shutdown().await?;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    // A reset, or a proxy that waits for more bytes, is a valid outcome.
    drop(timeout(Duration::from_secs(2), read).await);
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Headers that a service might trust.
const FORGED: &[(&str, &str)] = &[
    ("x-forwarded-for", "127.0.0.11"),
    ("x-forwarded-for", "127.0.0.11, 127.0.0.1"),
    ("x_forwarded_for", "127.0.0.11"),
    ("forwarded", "for=127.0.0.11"),
    ("forwarded", "for=127.0.0.11;proto=https, for=127.0.0.1"),
    ("x-real-ip", "127.0.0.11"),
    ("x_real_ip", "127.0.0.11"),
    ("x-client-ip", "127.0.0.11"),
    ("client-ip", "127.0.0.11"),
    ("true-client-ip", "127.0.0.11"),
    ("cf-connecting-ip", "127.0.0.11"),
    ("fly-client-ip", "127.0.0.11"),
    ("x-original-forwarded-for", "127.0.0.11"),
    ("x-callback-source", "allow"),
];

/// A placeholder for an address that a configuration does not have.
const NOWHERE: SocketAddr = SocketAddr::new(PROXY, 0);

/// The way in which a proxy uses its connections to the service.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Upstream {
    OneEach,
    Shared,
    Http2,
}

/// The source from which the service reads the client's address.
#[derive(Clone, Copy, Debug)]
enum Source {
    XForwardedFor,
    Forwarded,
    RealIp,
    ProxyProtocol,
}

impl Source {
    const ALL: [Self; 4] = [
        Self::XForwardedFor,
        Self::Forwarded,
        Self::RealIp,
        Self::ProxyProtocol,
    ];
}

/// A merchant's service that admits `LISTED` only.
struct Service {
    addr: SocketAddr,
    _server: JoinSet<io::Result<()>>,
}

impl Service {
    async fn start(source: Source) -> Result<Self, Box<dyn std::error::Error>> {
        let listener = TcpListener::bind((PROXY, 0)).await?;
        let addr = listener.local_addr()?;
        let proxies = TrustedProxies::new([PROXY.into()])?;
        let real_ip = HeaderName::from_static("x-real-ip");
        let app = match source {
            Source::XForwardedFor => app(ForwardedPeer::x_forwarded_for(
                ConnectInfoPeer,
                proxies.clone(),
            )),
            Source::Forwarded => app(ForwardedPeer::forwarded(ConnectInfoPeer, proxies.clone())),
            Source::RealIp => app(ForwardedPeer::header(
                ConnectInfoPeer,
                proxies.clone(),
                real_ip,
            )),
            Source::ProxyProtocol => app(ConnectInfoPeer),
        };
        let app = app.into_make_service_with_connect_info::<SocketAddr>();
        let mut server = JoinSet::new();
        match source {
            Source::ProxyProtocol => {
                let listener = ProxyProtocolListener::new(listener, proxies).tap_io(|_| {});
                server.spawn(async { axum::serve(listener, app).await });
            }
            Source::XForwardedFor | Source::Forwarded | Source::RealIp => {
                server.spawn(async { axum::serve(listener, app).await });
            }
        }
        Ok(Self {
            addr,
            _server: server,
        })
    }
}

fn app(peer: impl PeerIp + Clone + Send + Sync + 'static) -> Router {
    let list = AllowList::fixed([LISTED, LISTED_6]);
    Router::new()
        .fallback(async |allowed: Allowed| format!("paid by {}", allowed.peer()))
        .layer(VerifySourceLayer::rejecting(list, peer))
        .layer(middleware::from_fn(mark))
}

/// Adds the connection and the HTTP version of a request to its response, even if it is refused.
async fn mark(request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let peer = peer.map_or_else(String::new, |ConnectInfo(peer)| peer.to_string());
    let version = format!("{:?}", request.version());
    let mut response = next.run(request).await;
    for (name, value) in [("x-connection", peer), ("x-version", version)] {
        let value = HeaderValue::try_from(value).expect("printable");
        response.headers_mut().insert(name, value);
    }
    response
}

/// A proxy that a test can start.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Nginx,
    NginxStream,
    HaProxy,
    Caddy,
    Apache,
}

pub(crate) struct Proxy {
    pub(crate) addr: SocketAddr,
    server: Server,
}

impl Kind {
    pub(crate) fn find(self) -> Option<std::path::PathBuf> {
        let [program] = servers::find([match self {
            Self::Nginx | Self::NginxStream => "nginx",
            Self::HaProxy => "haproxy",
            Self::Caddy => "caddy",
            Self::Apache => "apache2",
        }])?;
        if matches!(self, Self::NginxStream) && !Path::new(NGINX_STREAM).exists() {
            servers::skip("nginx has no module `stream`");
            return None;
        }
        Some(program)
    }

    /// Starts the program with a configuration from `tests/proxies`, whose words in capitals are placeholders.
    pub(crate) async fn start(
        self,
        program: &Path,
        config: &str,
        upstream: SocketAddr,
    ) -> io::Result<Proxy> {
        self.start_at(PROXY, program, config, upstream).await
    }

    async fn start_at(
        self,
        ip: IpAddr,
        program: &Path,
        config: &str,
        upstream: SocketAddr,
    ) -> io::Result<Proxy> {
        servers::on_free_port(ip, async |addr| {
            let dir = tempfile::tempdir()?;
            let config = config
                .replace("LISTEN", &addr.to_string())
                .replace("ADDRESS", &addr.ip().to_string())
                .replace("PORT", &addr.port().to_string())
                .replace("UPSTREAM", &upstream.to_string())
                .replace("OUTER", &PROXY.to_string());
            let config = self.complete(&config, addr, dir.path());
            fs::write(dir.path().join("config"), config)?;
            let mut server = Server::start(program, self.arguments(), dir)?;
            server.ready(addr).await?;
            Ok(Proxy { addr, server })
        })
        .await
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Nginx | Self::NginxStream => &["-e", "stderr", "-p", ".", "-c", "config"],
            Self::HaProxy => &["-db", "-f", "config"],
            Self::Caddy => &["run", "--config", "config", "--adapter", "caddyfile"],
            Self::Apache => &["-X", "-d", ".", "-f", "config"],
        }
    }

    /// Returns the whole configuration. It consists of the part that the page shows, and of the lines with which the
    /// program runs unprivileged, in one process and in its own folder.
    fn complete(self, shown: &str, addr: SocketAddr, dir: &Path) -> String {
        let dir = dir.display();
        match self {
            Self::Nginx => {
                let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                    .map(|name| format!("{name}_temp_path {dir}/{name};"))
                    .concat();
                format!("{NGINX} http {{ access_log off; {temp}\n{shown}}}\n")
            }
            Self::NginxStream => {
                format!("load_module {NGINX_STREAM};\n{NGINX} stream {{\n{shown}}}\n")
            }
            Self::HaProxy => format!("{HAPROXY}{shown}"),
            Self::Caddy => format!("{{\n\tadmin off\n}}\n{shown}"),
            Self::Apache => {
                let modules = ["mpm_event", "authz_core", "proxy", "proxy_http"].map(|name| {
                    format!("LoadModule {name}_module {APACHE_MODULES}/mod_{name}.so\n")
                });
                format!(
                    "{}ServerName localhost\nListen {addr}\nUser www-data\nGroup www-data\n\
                     PidFile {dir}/pid\nDefaultRuntimeDir {dir}\nMutex file:{dir} default\n\
                     ErrorLog {dir}/error.log\n{shown}",
                    modules.concat()
                )
            }
        }
    }
}

const NGINX: &str = "daemon off; master_process off; pid pid; events {}";
const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
const HAPROXY: &str = "global\n    nbthread 1\n\
                       defaults\n    timeout connect 5s\n    timeout client 5s\n    timeout server 5s\n";
const APACHE_MODULES: &str = "/usr/lib/apache2/modules";
