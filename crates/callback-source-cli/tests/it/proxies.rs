//! `check` and `serve` behind proxies.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{
    server::Server,
    setup::{LISTED, UNLISTED, admit_one_host, assert_shown, command, connect, one_host, run},
};

const PROXY: &str = "127.0.9.1";

/// Runs `check` with a line of arguments and these headers.
async fn check(line: &str, headers: &[&str]) -> std::process::Output {
    let mut check = command(format!("check {line}").split_whitespace());
    for header in headers {
        check.args(["--header", header]);
    }
    check.output().await.unwrap()
}

#[tokio::test]
async fn a_walk_is_explained_hop_by_hop() {
    let dns = one_host().await;
    let hosts = admit_one_host(&dns);
    let proxies = "--trusted-proxy 10.0.0.0/24,192.0.2.80 --client-ip-header x-forwarded-for";
    let behind = format!("--peer 10.0.0.7 {proxies} {hosts}");
    let forwarded = [
        "X-Forwarded-For: 198.51.100.66, 127.0.1.1",
        "x-forwarded-for: 192.0.2.80",
    ];
    assert_shown!(check(&behind, &forwarded).await, @r#"
    exit 0
    -- stdout
    10.0.0.7 is a trusted proxy
    192.0.2.80 is a trusted proxy
    127.0.1.1 is the client
    127.0.1.1 allow one.example fresh
    -- stderr
    "#);
    assert_shown!(check(&format!("--json {behind}"), &forwarded).await, @r#"
    exit 0
    -- stdout
    {
      "hops": [
        {
          "address": "10.0.0.7",
          "trusted": true
        },
        {
          "address": "192.0.2.80",
          "trusted": true
        },
        {
          "address": "127.0.1.1",
          "trusted": false
        }
      ],
      "peers": [
        {
          "peer": "127.0.1.1",
          "verdict": "allow",
          "host": "one.example",
          "freshness": "fresh"
        }
      ]
    }
    -- stderr
    "#);
    assert_shown!(check(&behind, &["X-Forwarded-For: 127.0.1.1, 198.51.100.66"]).await, @r#"
    exit 1
    -- stdout
    10.0.0.7 is a trusted proxy
    198.51.100.66 is the client
    198.51.100.66 reject not-listed
    -- stderr
    "#);
    let direct = format!("--peer 198.51.100.66 {proxies} {hosts}");
    assert_shown!(check(&direct, &["X-Forwarded-For: 127.0.1.1"]).await, @r#"
    exit 1
    -- stdout
    198.51.100.66 is the client
    198.51.100.66 reject not-listed
    -- stderr
    "#);

    let single =
        format!("--peer 10.0.0.7 --trusted-proxy 10.0.0.7 --client-ip-header X-Real-IP {hosts}");
    assert_shown!(check(&single, &["X-Real-IP: 127.0.1.1"]).await, @r#"
    exit 0
    -- stdout
    10.0.0.7 is a trusted proxy
    127.0.1.1 is the client
    127.0.1.1 allow one.example fresh
    -- stderr
    "#);
}

#[tokio::test]
async fn a_walk_without_a_client_is_refused_without_a_lookup() {
    let dns = one_host().await;
    let proxies = "--trusted-proxy 10.0.0.0/24 --client-ip-header forwarded";
    let behind = format!("--peer 10.0.0.7 {proxies} {}", admit_one_host(&dns));
    assert_shown!(check(&behind, &[]).await, @r#"
    exit 1
    -- stdout
    10.0.0.7 is a trusted proxy
    10.0.0.7 reject forwarded-missing
    -- stderr
    note: the proxy does not name the caller
    "#);
    assert_shown!(check(&behind, &["Forwarded: for=127.0.1.1, for=unknown, for=10.0.0.8"]).await, @r#"
    exit 1
    -- stdout
    10.0.0.7 is a trusted proxy
    10.0.0.8 is a trusted proxy
    10.0.0.7 reject forwarded-malformed
    -- stderr
    note: the proxy does not give the caller's address
    "#);
    assert_shown!(check(&format!("--json {behind}"), &["Forwarded: for=10.0.0.8"]).await, @r#"
    exit 1
    -- stdout
    {
      "hops": [
        {
          "address": "10.0.0.7",
          "trusted": true
        },
        {
          "address": "10.0.0.8",
          "trusted": true
        }
      ],
      "peers": [
        {
          "peer": "10.0.0.7",
          "verdict": "reject",
          "reason": "all-trusted"
        }
      ]
    }
    -- stderr
    note: the proxy names proxies only
    "#);
    assert_eq!(dns.total(), 0);
}

#[tokio::test]
async fn a_hop_at_a_unix_socket_is_passed_if_it_is_trusted() {
    let dns = one_host().await;
    let header = "--client-ip-header x-forwarded-for";
    let behind = |proxies: &str| {
        let hosts = admit_one_host(&dns);
        format!("--peer 10.0.0.7 --trusted-proxy {proxies} {header} {hosts}")
    };
    let forwarded = ["X-Forwarded-For: 198.51.100.66, 127.0.1.1, unix:"];
    assert_shown!(check(&behind("10.0.0.7,unix:"), &forwarded).await, @r#"
    exit 0
    -- stdout
    10.0.0.7 is a trusted proxy
    127.0.1.1 is the client
    127.0.1.1 allow one.example fresh
    -- stderr
    "#);
    assert_shown!(check(&behind("10.0.0.7"), &forwarded).await, @r#"
    exit 1
    -- stdout
    10.0.0.7 is a trusted proxy
    10.0.0.7 reject forwarded-malformed
    -- stderr
    note: the proxy does not give the caller's address
    "#);
    // `unix:` never matches the peer of a TCP connection.
    for line in [
        format!("serve --listen 127.0.0.1:0 --trusted-proxy unix: {header}"),
        format!("check {}", behind("unix:")),
    ] {
        let shown = String::from_utf8(run(&line).await.stderr).unwrap();
        assert!(shown.contains("requires `--trusted-proxy CIDR`"), "{shown}");
    }
    let shown = run(&format!("check {}", behind("unix:/run/a")))
        .await
        .stderr;
    let shown = String::from_utf8(shown).unwrap();
    assert!(
        shown.contains("or `unix:` for proxies at a Unix socket"),
        "{shown}"
    );
}

#[tokio::test]
async fn one_flag_without_the_other_is_an_error() {
    let listen = "serve --listen 127.0.0.1:0 --host one.example";
    assert_shown!(run(&format!("{listen} --trusted-proxy 10.0.0.1")).await, @r#"
    exit 2
    -- stdout
    -- stderr
    error: `--trusted-proxy` requires `--client-ip-header` or `--proxy-protocol`
    hint: give the header with `--client-ip-header NAME`, or let `serve` read the PROXY protocol with `--proxy-protocol`
    "#);
    assert_shown!(run(&format!("{listen} --client-ip-header x-real-ip")).await, @r#"
    exit 2
    -- stdout
    -- stderr
    error: `--client-ip-header` requires `--trusted-proxy CIDR`
    hint: give the addresses of your proxies with `--trusted-proxy CIDR`; without it, any client could choose its own address
    "#);
    assert_shown!(run(&format!("{listen} --proxy-protocol")).await, @r#"
    exit 2
    -- stdout
    -- stderr
    error: `--proxy-protocol` requires `--trusted-proxy CIDR`
    hint: give the addresses of your proxies with `--trusted-proxy CIDR`; without it, any client could choose its own address
    "#);
    let both = "--trusted-proxy 10.0.0.1 --proxy-protocol --client-ip-header forwarded";
    assert_shown!(run(&format!("{listen} {both}")).await, @r#"
    exit 2
    -- stdout
    -- stderr
    error: `--client-ip-header` cannot be used with `--proxy-protocol`
    hint: leave out `--client-ip-header` or `--proxy-protocol`
    "#);
    let everybody = "--trusted-proxy 0.0.0.0/0 --client-ip-header forwarded";
    assert_shown!(run(&format!("{listen} {everybody}")).await, @r#"
    exit 2
    -- stdout
    -- stderr
    error: network `0.0.0.0/0` contains every address; list specific networks
    "#);
    assert_shown!(run("check --peer 10.0.0.1 --trusted-proxy 10.0.0.1").await, @r#"
    exit 2
    -- stdout
    -- stderr
    error: `--trusted-proxy` requires `--client-ip-header` or `--proxy-protocol`
    hint: give the header with `--client-ip-header NAME`, or let `serve` read the PROXY protocol with `--proxy-protocol`
    "#);
    assert_shown!(run("check --peer 10.0.0.1 --client-ip-header forwarded").await, @r#"
    exit 2
    -- stdout
    -- stderr
    error: `--client-ip-header` requires `--trusted-proxy CIDR`
    hint: give the addresses of your proxies with `--trusted-proxy CIDR`; without it, any client could choose its own address
    "#);
    for line in [
        "check 10.0.0.1 --header a:b",
        "check 10.0.0.1 --peer 10.0.0.1",
        "check --peer 10.0.0.1 --header a",
        "serve --listen unix:",
        "serve --listen callback.sock",
    ] {
        assert_eq!(run(line).await.status.code(), Some(2), "{line}");
    }
}

#[tokio::test]
async fn only_a_trusted_proxy_names_the_client() {
    let dns = one_host().await;
    let proxy = format!("--trusted-proxy {PROXY} --client-ip-header x-forwarded-for");
    let server = Server::start(&format!("{proxy} {}", admit_one_host(&dns))).await;
    server.ready().await;
    for (peer, forwarded, status) in [
        (PROXY, Some("127.0.1.1"), 200),
        (PROXY, Some("198.51.100.66, 127.0.1.1"), 200),
        (PROXY, Some("127.0.1.1, 198.51.100.66"), 403),
        (PROXY, Some("127.0.1.1, unknown"), 400),
        (PROXY, Some(PROXY), 400),
        (PROXY, None, 400),
        (UNLISTED, Some("127.0.1.1"), 403),
        (LISTED, Some("198.51.100.66"), 200),
        (LISTED, None, 200),
    ] {
        let headers: Vec<_> = forwarded
            .map(|value| ("x-forwarded-for", value))
            .into_iter()
            .collect();
        let reply = server.send(peer, "POST", "/verify", &headers).await;
        assert_eq!(reply.status, status, "{peer} {forwarded:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn the_status_is_not_shown_to_a_trusted_proxy() {
    let dns = one_host().await;
    for source in ["--client-ip-header x-real-ip", "--proxy-protocol"] {
        let args = format!("--trusted-proxy {PROXY} {source} {}", admit_one_host(&dns));
        let server = Server::start(&args).await;
        let own = server.get("127.0.0.1", "/status.json").await;
        assert_eq!(own.status, 200, "{source}");
        let prefix: &[u8] = match source {
            "--proxy-protocol" => b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n",
            _ => b"",
        };
        let proxy = connect(PROXY, server.addr).await.unwrap();
        let reply = exchange(proxy, prefix, "/status.json").await.unwrap();
        assert!(reply.starts_with("HTTP/1.1 404"), "{source}: {reply}");
        server.stop().await;
    }
}

#[tokio::test]
async fn the_proxy_protocol_is_read_from_trusted_peers_and_required() {
    let dns = one_host().await;
    let args = format!(
        "--trusted-proxy {PROXY} --proxy-protocol {}",
        admit_one_host(&dns)
    );
    let server = Server::start(&args).await;
    server.ready().await;
    let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    v2.extend([127, 0, 1, 1, 127, 0, 0, 1, 0x12, 0x67, 0x01, 0xbb]);
    let mut v2_unlisted = v2.clone();
    v2_unlisted[18] = 2;
    let v1 = |client: &str| format!("PROXY TCP4 {client} 127.0.0.1 4711 443\r\n").into_bytes();
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec();
    for (peer, header, answer) in [
        (PROXY, v1(LISTED), "HTTP/1.1 200"),
        (PROXY, v1(UNLISTED), "HTTP/1.1 403"),
        (PROXY, v2.clone(), "HTTP/1.1 200"),
        (PROXY, v2_unlisted, "HTTP/1.1 403"),
        (PROXY, b"PROXY UNKNOWN\r\n".to_vec(), "HTTP/1.1 403"),
        (PROXY, local, "HTTP/1.1 403"),
        // The proxy must send a complete and valid header. From other peers, the header is not read.
        (PROXY, Vec::new(), ""),
        (
            PROXY,
            b"PROXY TCP4 localhost 127.0.0.1 4711 443\r\n".to_vec(),
            "",
        ),
        (LISTED, Vec::new(), "HTTP/1.1 200"),
        (UNLISTED, v1(LISTED), "HTTP/1.1 400"),
    ] {
        let stream = connect(peer, server.addr).await.unwrap();
        let reply = exchange(stream, &header, "/verify")
            .await
            .unwrap_or_default();
        let header = String::from_utf8_lossy(&header);
        assert_eq!(
            reply.get(..12).unwrap_or_default(),
            answer,
            "{peer} {header:?}"
        );
    }
    server.has_logged("no PROXY protocol header").await;

    // The header arrives one byte at a time.
    let mut stream = connect(PROXY, server.addr).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in v2 {
        stream.write_all(&[byte]).await.unwrap();
        stream.flush().await.unwrap();
    }
    let reply = exchange(stream, b"", "/verify").await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    server.stop().await;
}

#[cfg(unix)]
mod unix {
    use std::{
        os::unix::{
            fs::PermissionsExt,
            net::{UnixListener as StdListener, UnixStream as StdStream},
        },
        path::Path,
    };

    use tokio::net::UnixStream;

    use super::*;

    async fn get(socket: &Path, headers: &str, path: &str) -> String {
        let stream = UnixStream::connect(socket).await.unwrap();
        let path = format!("{path} HTTP/1.1\r\n{headers}X:");
        exchange(stream, b"", &path).await.unwrap()
    }

    #[tokio::test]
    async fn behind_a_unix_socket_the_peer_is_a_proxy() {
        let dns = one_host().await;
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("verify.sock");
        let args = format!(
            "--listen unix:{} --client-ip-header x-forwarded-for --admin-listen 127.0.0.1:0 {}",
            socket.display(),
            admit_one_host(&dns),
        );
        let server = Server::start(&args).await;
        server.ready().await;
        let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        for (headers, status) in [
            ("X-Forwarded-For: 127.0.1.1\r\n", "200"),
            ("X-Forwarded-For: 127.0.1.1, 127.0.2.1\r\n", "403"),
            ("", "400"),
        ] {
            let reply = get(&socket, headers, "/verify").await;
            assert_eq!(&reply[9..12], status, "{headers}");
        }
        assert_eq!(server.get("127.0.0.1", "/status.json").await.status, 200);
        server.stop().await;
        assert!(!socket.exists());
    }

    #[tokio::test]
    async fn the_status_is_not_shown_at_a_unix_socket_and_health_is() {
        let dns = one_host().await;
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("verify.sock");
        let listen = format!(
            "serve --listen unix:{} --client-ip-header x-real-ip",
            socket.display()
        );
        let mut serve = command(format!("{listen} {}", admit_one_host(&dns)).split_whitespace());
        let mut child = serve.stderr(std::process::Stdio::piped()).spawn().unwrap();
        let mut log = tokio::io::BufReader::new(child.stderr.take().unwrap());
        let mut lines = String::new();
        while !lines.contains("listening on unix:") {
            use tokio::io::AsyncBufReadExt;
            assert_ne!(log.read_line(&mut lines).await.unwrap(), 0, "{lines}");
        }
        let health = get(&socket, "", "/healthz").await;
        assert!(health.starts_with("HTTP/1.1 200"), "{health}");
        let status = get(&socket, "", "/status.json").await;
        assert!(status.starts_with("HTTP/1.1 404"), "{status}");
        child.kill().await.unwrap();
        assert!(socket.exists());

        // A socket without a process is replaced.
        let args = format!(
            "--listen unix:{} --client-ip-header x-real-ip --admin-listen 127.0.0.1:0 {}",
            socket.display(),
            admit_one_host(&dns),
        );
        let server = Server::start(&args).await;
        let health = get(&socket, "X-Real-IP: 127.0.1.1\r\n", "/verify").await;
        assert!(health.starts_with("HTTP/1.1"), "{health}");

        // A socket in use is not replaced.
        let output = run(&format!("{listen} {}", admit_one_host(&dns))).await;
        assert_eq!(output.status.code(), Some(2));
        server.stop().await;
    }

    #[tokio::test]
    async fn a_file_or_a_socket_in_use_is_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("file"), "kept").unwrap();
        let _listener = StdListener::bind(at("used")).unwrap();
        std::os::unix::fs::symlink(at("used"), at("link")).unwrap();
        for name in ["file", "used", "link", "missing/socket"] {
            let path = at(name);
            let listen = format!(
                "serve --listen unix:{} --client-ip-header forwarded",
                path.display()
            );
            let output = run(&format!(
                "{listen} --host one.example --dns-server 127.0.0.1:9"
            ))
            .await;
            assert_eq!(output.status.code(), Some(2), "{name}");
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert!(stderr.contains("error: cannot listen on unix:"), "{stderr}");
        }
        assert_eq!(std::fs::read(at("file")).unwrap(), b"kept");
        assert!(StdStream::connect(at("used")).is_ok());
    }

    #[tokio::test]
    async fn a_unix_socket_requires_a_header() {
        let listen = "serve --listen unix:/nowhere/verify.sock --host one.example";
        assert_shown!(run(listen).await, @r#"
        exit 2
        -- stdout
        -- stderr
        error: `--listen unix:PATH` requires `--client-ip-header`: the peer of a Unix socket has no address
        hint: give the proxy's header with the client's address: `--client-ip-header NAME`
        "#);
        let protocol = "--proxy-protocol --trusted-proxy 10.0.0.1";
        assert_shown!(run(&format!("{listen} {protocol}")).await, @r#"
        exit 2
        -- stdout
        -- stderr
        error: `--proxy-protocol` cannot be used with `--listen unix:PATH`
        hint: let the proxy name the client in a header, and give that with `--client-ip-header NAME`
        "#);
    }
}

/// Sends the bytes `before` and then a request, and reads the response to its end.
async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    before: &[u8],
    path: &str,
) -> io::Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n");
    stream
        .write_all(&[before, request.as_bytes()].concat())
        .await?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await?;
    Ok(reply)
}
