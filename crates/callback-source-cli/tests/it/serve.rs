use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use callback_source::vipps::Environment;
use integration_tests::{
    dns::{Fault, FaultScope, ResponseCode},
    http::{Connection, Reply},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::RwLock,
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::{
    server::Server,
    setup::{LISTED, UNLISTED, admit_one_host, ask, ip, one_host},
};

#[tokio::test]
async fn responds_by_the_verdict_for_every_method() {
    let dns = one_host().await;
    let server = Server::start(&format!("{} --allow 127.0.3.0/24", admit_one_host(&dns))).await;
    server.ready().await;
    for method in [
        "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PURGE",
    ] {
        for path in [
            "/verify",
            "/verify?a=b",
            "/verify/",
            "/verify/v2/payments/1?x=%2F",
        ] {
            let reply = server.send(LISTED, method, path, &[]).await;
            assert_eq!(
                summary(&reply),
                "200 allow one.example - -",
                "{method} {path}"
            );
            let reply = server.send("127.0.3.7", method, path, &[]).await;
            assert_eq!(summary(&reply), "200 allow - - -", "{method} {path}");
        }
        let reply = server
            .send(UNLISTED, method, "/verify/script?%3Cscript%3E", &[])
            .await;
        assert_eq!(summary(&reply), "403 reject - not-listed -", "{method}");
        let empty = method == "HEAD";
        let text = "this address may not send callbacks";
        assert_eq!(reply.text(), if empty { "" } else { text });
    }
    for path in [
        "/",
        "/verifyX",
        "/Verify",
        "/x/verify",
        "/metrics/",
        "/statuses",
    ] {
        let reply = server.get(LISTED, path).await;
        assert_eq!(summary(&reply), "404 - - - -", "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_refusal_of_a_request_with_a_small_body_does_not_end_the_connection() {
    let dns = one_host().await;
    let server = Server::start(&admit_one_host(&dns)).await;
    server.ready().await;
    let mut connection = server.connect(UNLISTED).await;
    for _ in 0..3 {
        let sent = connection.send("POST", "/verify", &[], b"{}").await;
        let reply = sent.unwrap();
        assert_eq!(reply.status, 403);
        assert_eq!(reply.header("connection"), None);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_refusal_before_a_large_body_announces_the_end_of_the_connection() {
    let dns = one_host().await;
    let server = Server::start(&admit_one_host(&dns)).await;
    server.ready().await;
    for body in ["Content-Length: 1048577", "Transfer-Encoding: chunked"] {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        let head = format!("POST /verify HTTP/1.1\r\nHost: shop.example\r\n{body}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut reply = Vec::new();
        while !reply.windows(4).any(|end| end == b"\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut reply).await.unwrap(), 0);
        }
        let reply = String::from_utf8(reply).unwrap();
        assert!(reply.starts_with("HTTP/1.1 403"), "{reply}");
        assert!(reply.contains("connection: close"), "{reply}");
    }
    server.stop().await;
}

#[tokio::test]
async fn ignores_forwarding_headers_of_untrusted_peers() {
    let dns = one_host().await;
    let server = Server::start(&admit_one_host(&dns)).await;
    server.ready().await;
    let forged = [
        ("x-forwarded-for", LISTED),
        ("x-real-ip", LISTED),
        ("forwarded", "for=127.0.1.1"),
        ("x-callback-source", "allow"),
    ];
    let reply = server.send(UNLISTED, "POST", "/verify", &forged).await;
    assert_eq!(summary(&reply), "403 reject - not-listed -");
    server.stop().await;
}

#[tokio::test]
async fn refuses_a_test_server_in_production_with_a_reason_that_ends_the_search() {
    let dns = one_host().await;
    for host in Environment::Production.hosts() {
        dns.set(host.as_str(), 60, &[ip(LISTED)]);
    }
    for host in Environment::Test.hosts() {
        dns.set(host.as_str(), 60, &[ip(UNLISTED)]);
    }
    let flags = format!("--allow-special-addresses {}", ask(&dns));
    let server = Server::start(&flags).await;
    server.ready().await;
    server.get(UNLISTED, "/verify").await;
    // The first request triggered the lookups of the watched hosts, but did not wait for the answers.
    server
        .has_logged("127.0.2.1 is callback-mt-1.vipps.no, a test server; this list is production")
        .await;
    let reply = server.get(UNLISTED, "/verify").await;
    assert_eq!(summary(&reply), "403 reject - wrong-environment -");
    assert!(!reply.text().contains("127.0"), "{}", reply.text());
    assert_eq!(
        summary(&server.get(LISTED, "/verify").await),
        "200 allow callback-1.vipps.no - -"
    );
    assert_eq!(
        summary(&server.get("127.0.3.1", "/verify").await),
        "403 reject - not-listed -"
    );
    let status = server.get("127.0.0.1", "/status.json").await.text();
    assert!(status.contains(r#""callback-mt-2.vipps.no""#), "{status}");
    server.stop().await;
}

#[tokio::test]
async fn responds_with_503_when_the_list_cannot_decide() {
    let dns = one_host().await;
    dns.set_fault(FaultScope::Everything, Fault::Rcode(ResponseCode::ServFail));
    let server = Server::start(&admit_one_host(&dns)).await;
    let reply = server.get(LISTED, "/verify").await;
    assert_eq!(summary(&reply), "503 reject - unresolved 5");
    server.stop().await;

    let server = Server::start(&format!("{} --unsure-status 401", admit_one_host(&dns))).await;
    let reply = server.get(LISTED, "/verify").await;
    assert_eq!(summary(&reply), "401 reject - unresolved 5");
    let path = format!("/explain.json?peer={LISTED}");
    let explained = server.get("127.0.0.1", &path).await.text();
    assert!(explained.contains("\"status\":401"), "{explained}");
    server.stop().await;
}

#[tokio::test]
async fn report_only_mode_refuses_nothing() {
    let dns = one_host().await;
    let server = Server::start(&format!("{} --report-only", admit_one_host(&dns))).await;
    server.ready().await;
    let reply = server.get(LISTED, "/verify").await;
    assert_eq!(summary(&reply), "200 allow one.example - -");
    let reply = server.get(UNLISTED, "/verify").await;
    assert_eq!(summary(&reply), "200 reject - not-listed -");
    server.has_logged("callback let through with a tag").await;
    let status = server.get("127.0.0.1", "/status.json").await.text();
    assert!(status.contains(r#""report_only": true"#), "{status}");
    assert!(status.contains(r#""not-listed": 1"#), "{status}");
    server.stop().await;

    dns.set_fault(FaultScope::Everything, Fault::Drop);
    let server = Server::start(&format!("{} --report-only", admit_one_host(&dns))).await;
    let reply = server.get(UNLISTED, "/verify").await;
    assert_eq!(summary(&reply), "200 reject - unresolved -");
    server.stop().await;
}

#[tokio::test]
async fn listens_while_dns_is_silent() {
    let dns = one_host().await;
    dns.set_fault(FaultScope::Everything, Fault::Drop);
    let server = Server::start(&admit_one_host(&dns)).await;
    assert_eq!(server.get("127.0.9.9", "/healthz").await.status, 200);
    assert_eq!(server.get("127.0.9.9", "/readyz").await.status, 503);
    assert_eq!(server.get(LISTED, "/verify").await.status, 503);
    dns.clear_faults();
    server.ready().await;
    assert_eq!(server.get("127.0.9.9", "/readyz").await.status, 200);
    assert_eq!(server.get(LISTED, "/verify").await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn shows_its_status_to_this_machine_only() {
    let dns = one_host().await;
    let server = Server::start(&admit_one_host(&dns)).await;
    server.ready().await;
    server.get(LISTED, "/verify").await;
    let reply = server.get("127.0.0.1", "/status.json").await;
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(
        r#"(uptime|age)_seconds": \d+"#,
        r#"${1}_seconds": [SECONDS]"#,
    );
    settings.bind(|| {
        insta::assert_snapshot!(reply.text(), @r#"
    {
      "ready": true,
      "report_only": false,
      "uptime_seconds": [SECONDS],
      "log_lines_dropped": 0,
      "journal_events_dropped": 0,
      "verdicts": {
        "allow": 1,
        "not-listed": 0,
        "unresolved": 0,
        "wrong-environment": 0
      },
      "refused_then_listed": 0,
      "addresses": [
        "127.0.1.1"
      ],
      "networks": [],
      "watched": [],
      "hosts": [
        {
          "host": "one.example",
          "addresses": [
            "127.0.1.1"
          ],
          "questions": [
            {
              "type": "A",
              "state": "answered",
              "ttl_seconds": 60,
              "age_seconds": [SECONDS],
              "addresses": [
                "127.0.1.1"
              ],
              "left_out": [],
              "failing_for_seconds": null,
              "last_error": null
            },
            {
              "type": "AAAA",
              "state": "denied",
              "ttl_seconds": null,
              "age_seconds": null,
              "addresses": [],
              "left_out": [],
              "failing_for_seconds": null,
              "last_error": null
            }
          ]
        }
      ]
    }
    "#)
    });

    for header in [
        "x-forwarded-for",
        "x-forwarded-proto",
        "forwarded",
        "via",
        "x-real-ip",
    ] {
        let headers = [(header, "127.0.0.1")];
        let reply = server
            .send("127.0.0.1", "GET", "/status.json", &headers)
            .await;
        assert_eq!(reply.status, 404, "{header}");
        let reply = server.send("127.0.0.1", "GET", "/healthz", &headers).await;
        assert_eq!(reply.status, 200, "{header}");
    }
    server.stop().await;
}

#[tokio::test]
async fn keeps_the_operators_paths_on_their_own_listener() {
    let dns = one_host().await;
    let server = Server::start(&format!(
        "{} --admin-listen 127.0.0.1:0",
        admit_one_host(&dns)
    ))
    .await;
    server.ready().await;
    let admin = server.admin.unwrap();
    for path in ["/healthz", "/readyz", "/status.json", "/metrics"] {
        assert_eq!(server.get("127.0.0.1", path).await.status, 404, "{path}");
        let mut connection = Connection::connect(ip("127.0.9.9"), admin).await.unwrap();
        let proxied = [("x-forwarded-for", "192.0.2.1")];
        let reply = connection.send("GET", path, &proxied, b"").await.unwrap();
        assert_eq!(reply.status, 200, "{path}");
    }
    let mut connection = Connection::connect(ip(LISTED), admin).await.unwrap();
    let reply = connection.send("GET", "/verify", &[], b"").await.unwrap();
    assert_eq!(reply.status, 404);
    assert_eq!(server.get(LISTED, "/verify").await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn refuses_a_request_head_above_16_kib() {
    let dns = one_host().await;
    let server = Server::start(&admit_one_host(&dns)).await;
    server.ready().await;
    let head = |length: usize, lines: usize| {
        let mut head = "GET /verify HTTP/1.1\r\nhost: x\r\n".to_owned();
        for line in 0..lines {
            head.push_str(&format!("x-{line}: 1\r\n"));
        }
        head.push_str("x: ");
        head.push_str(&"x".repeat(length - head.len() - 4));
        head + "\r\n\r\n"
    };
    for (length, lines, status) in [
        (16 * 1024, 1, "200"),
        (16 * 1024 + 1, 1, "431"),
        (16 * 1024, 300, "200"),
        (64 * 1024, 1, "431"),
        (16 * 1024, 600, "431"),
    ] {
        let head = head(length, lines);
        assert_eq!(head.len(), length);
        let mut stream = server.stream(LISTED).await;
        stream.write_all(head.as_bytes()).await.unwrap();
        assert_eq!(
            status_line(&mut stream).await,
            format!("HTTP/1.1 {status}"),
            "{length}"
        );
    }

    let long = "x".repeat(17 * 1024);
    let mut connection = Connection::connect_h2(ip(LISTED), server.addr)
        .await
        .unwrap();
    let reply = connection
        .send("GET", "/verify", &[("x", &long)], b"")
        .await
        .unwrap();
    assert_eq!(reply.status, 431);
    let reply = connection
        .send("GET", "/verify", &[("x", &long[..8000])], b"")
        .await
        .unwrap();
    assert_eq!(reply.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn keeps_a_connection_for_many_requests_with_bodies() {
    let dns = one_host().await;
    let server = Server::start(&admit_one_host(&dns)).await;
    server.ready().await;
    for mut connection in [
        server.connect(LISTED).await,
        Connection::connect_h2(ip(LISTED), server.addr)
            .await
            .unwrap(),
    ] {
        for length in [0, 1, 300, 100_000, 500_000] {
            let reply = connection
                .send("POST", "/verify/x", &[], &vec![b'x'; length])
                .await;
            assert_eq!(reply.unwrap().status, 200, "{length}");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn responds_before_a_body_that_never_arrives() {
    let dns = one_host().await;
    let server = Server::start(&admit_one_host(&dns)).await;
    server.ready().await;
    let mut stream = server.stream(LISTED).await;
    let head = b"POST /verify HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n";
    stream.write_all(head).await.unwrap();
    assert_eq!(status_line(&mut stream).await, "HTTP/1.1 200");
    server.stop().await;
}

#[tokio::test]
async fn responds_to_a_client_that_closed_its_side() {
    let dns = one_host().await;
    let server = Server::start(&admit_one_host(&dns)).await;
    server.ready().await;
    for (peer, status) in [(LISTED, "200"), (UNLISTED, "403")] {
        let mut stream = server.stream(peer).await;
        let head = b"GET /verify HTTP/1.0\r\n\r\n";
        stream.write_all(head).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(status_line(&mut stream).await, format!("HTTP/1.0 {status}"));
    }
    server.stop().await;
}

#[tokio::test]
async fn closes_the_connection_of_a_client_that_is_slow_with_its_head() {
    let dns = one_host().await;
    let server = Server::start(&admit_one_host(&dns)).await;
    server.ready().await;
    let start = Instant::now();
    let mut slow = JoinSet::new();
    for begin in [
        "",
        "P",
        "PRI * HTTP/2.0\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET /verify HTTP/1.1\r\nx: ",
    ] {
        let mut stream = server.stream(LISTED).await;
        slow.spawn(async move {
            stream.write_all(begin.as_bytes()).await.unwrap();
            let mut rest = Vec::new();
            // The read also ends when the connection is reset.
            let _ = stream.read_to_end(&mut rest).await;
        });
    }
    let mut later = server.stream(LISTED).await;
    let first = b"GET /verify HTTP/1.1\r\nhost: x\r\n\r\n";
    later.write_all(first).await.unwrap();
    assert_eq!(status_line(&mut later).await, "HTTP/1.1 200");
    later.write_all(b"GET /verify").await.unwrap();
    slow.spawn(async move {
        let mut rest = Vec::new();
        let _ = later.read_to_end(&mut rest).await;
    });

    while let Some(ended) = slow.join_next().await {
        ended.unwrap();
        let took = start.elapsed();
        let bounds = Duration::from_millis(9_900)..Duration::from_secs(15);
        assert!(bounds.contains(&took), "{took:?}");
        assert_eq!(server.get(LISTED, "/verify").await.status, 200);
    }
    server.stop().await;
}

#[tokio::test]
async fn slow_and_idle_clients_do_not_shut_out_others() {
    let dns = one_host().await;
    let server = Server::start(&format!("{} --max-connections 20", admit_one_host(&dns))).await;
    server.ready().await;
    let mut idle = Vec::new();
    for _ in 0..60 {
        let mut stream = server.stream(UNLISTED).await;
        stream.write_all(b"GET /ver").await.unwrap();
        idle.push(stream);
    }
    let answered = timeout(Duration::from_secs(9), server.get(LISTED, "/verify")).await;
    assert_eq!(answered.expect("room is made").status, 200);
    server.has_logged("all connections are in use").await;
    server.stop().await;
}

#[tokio::test]
async fn hundreds_of_open_connections_delay_no_request() {
    let dns = one_host().await;
    let server = Server::start(&admit_one_host(&dns)).await;
    server.ready().await;
    let mut open = Vec::new();
    for number in 0..400 {
        let mut stream = server.stream(UNLISTED).await;
        let begin: &[u8] = if number % 2 == 0 {
            b""
        } else {
            b"GET /verify HTTP/1.1\r\nx"
        };
        stream.write_all(begin).await.unwrap();
        open.push(stream);
    }
    let start = Instant::now();
    for _ in 0..100 {
        assert_eq!(server.get(LISTED, "/verify").await.status, 200);
    }
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    server.stop().await;
}

#[tokio::test]
async fn stops_under_load_without_cutting_a_request() {
    let dns = one_host().await;
    let mut server = Server::start(&admit_one_host(&dns)).await;
    server.ready().await;
    let answered = Arc::new(AtomicUsize::new(0));
    // The system may reset a connection that arrives while the server closes its listener.
    let connects = Arc::new(RwLock::new(true));
    let mut clients = JoinSet::new();
    for number in 0..40 {
        let (addr, answered) = (server.addr, Arc::clone(&answered));
        let connects = Arc::clone(&connects);
        clients.spawn(async move {
            let kept = number % 2 == 0;
            loop {
                let may = connects.read().await;
                if !*may {
                    break;
                }
                let mut connection = Connection::connect(ip(LISTED), addr).await.unwrap();
                drop(may);
                loop {
                    let headers: &[_] = if kept {
                        &[]
                    } else {
                        &[("connection", "close")]
                    };
                    let reply = connection.send("POST", "/verify", headers, b"{}").await;
                    assert_eq!(reply.expect("no request is cut").status, 200);
                    answered.fetch_add(1, Ordering::Relaxed);
                    if !kept || connection.is_closed() {
                        break;
                    }
                }
            }
        });
    }
    while answered.load(Ordering::Relaxed) < 2_000 {
        tokio::task::yield_now().await;
    }
    *connects.write().await = false;
    server.signal("TERM").await;
    let start = Instant::now();
    assert_eq!(server.ended().await.code(), Some(0), "{}", server.log());
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    server.has_logged("stopped").await;
}

#[tokio::test]
async fn a_second_signal_ends_the_server_at_once() {
    let dns = one_host().await;
    let mut server = Server::start(&admit_one_host(&dns)).await;
    server.ready().await;
    let mut slow = server.stream(LISTED).await;
    slow.write_all(b"GET /verify").await.unwrap();
    server.get(LISTED, "/healthz").await;
    server.signal("INT").await;
    server.has_logged("stopping").await;
    let start = Instant::now();
    server.signal("TERM").await;
    assert_eq!(server.ended().await.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(3));
    server.has_logged("second signal").await;
}

#[tokio::test]
async fn no_verdict_is_wrong_while_the_zone_rotates() {
    let dns = one_host().await;
    let hosts = "--host one.example --host two.example --min-ttl 1s";
    dns.set("two.example", 1, &[ip("127.0.4.1")]);
    let flags = format!("{hosts} --allow-special-addresses {}", ask(&dns));
    let server = Server::start(&flags).await;
    server.ready().await;

    let over = Arc::new(AtomicBool::new(false));
    let rotation = {
        let over = Arc::clone(&over);
        async move {
            let mut last = 1;
            while !over.load(Ordering::Relaxed) {
                last = last % 9 + 1;
                dns.set("two.example", 1, &[ip(&format!("127.0.4.{last}"))]);
                let asked = dns.count("two.example", integration_tests::dns::RecordType::A);
                let next = dns.asked_at_least(
                    "two.example",
                    integration_tests::dns::RecordType::A,
                    asked + 1,
                );
                let _ = timeout(Duration::from_secs(2), next).await;
            }
            dns
        }
    };
    let rotation = tokio::spawn(rotation);

    let mut clients = JoinSet::new();
    for number in 0..100 {
        // A listed peer, an unlisted peer, and a server whose address leaves the zone and returns. Once admitted,
        // that server stays admitted for the linger window.
        let (peer, kind) = match number % 3 {
            0 => (LISTED.to_owned(), 0),
            1 => (format!("127.0.2.{}", number + 1), 1),
            _ => (format!("127.0.4.{}", number % 9 + 1), 2),
        };
        let mut connection = server.connect(&peer).await;
        clients.spawn(async move {
            let mut admitted = false;
            for request in 0..100 {
                let reply = connection
                    .send("POST", "/verify/x", &[], b"{}")
                    .await
                    .unwrap();
                let expected: &[u16] = match (kind, admitted) {
                    (0, _) | (2, true) => &[200],
                    (1, _) => &[403],
                    _ => &[200, 403],
                };
                assert!(
                    expected.contains(&reply.status),
                    "{peer} {request}: {}",
                    reply.status
                );
                admitted |= reply.status == 200;
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    over.store(true, Ordering::Relaxed);
    rotation.await.unwrap();
    server.stop().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn memory_use_stays_flat() {
    let dns = one_host().await;
    let server = Server::start(&admit_one_host(&dns)).await;
    server.ready().await;
    let load = async |requests: usize| {
        let mut clients = JoinSet::new();
        for number in 0..20 {
            let addr = server.addr;
            clients.spawn(async move {
                for request in 0..requests / 20 {
                    let peer = match request % 2 {
                        0 => LISTED.to_owned(),
                        _ => format!("127.0.{}.{}", 10 + number, request % 250 + 1),
                    };
                    let mut connection = Connection::connect(ip(&peer), addr).await.unwrap();
                    for _ in 0..5 {
                        connection
                            .send("POST", "/verify/x", &[], b"{}")
                            .await
                            .unwrap();
                    }
                }
            });
        }
        while let Some(client) = clients.join_next().await {
            client.unwrap();
        }
        server.memory()
    };
    load(2_000).await;
    let before = load(2_000).await;
    let after = load(4_000).await;
    assert!(after < before + 8 * 1024, "{before} KiB, then {after} KiB");
    server.stop().await;
}

#[tokio::test]
async fn a_restart_while_dns_is_down_refuses_no_listed_peer() {
    let dns = one_host().await;
    let name = format!("callback-source-restart-{}.json", dns.addr().port());
    let path = std::env::temp_dir().join(name);
    let flags = format!("{} --state-file {}", admit_one_host(&dns), path.display());
    let server = Server::start(&flags).await;
    server.ready().await;
    server.stop().await;
    dns.set_fault(FaultScope::Everything, Fault::Drop);
    let server = Server::start(&flags).await;
    assert_eq!(server.get(LISTED, "/verify").await.status, 200);
    server.stop().await;
    std::fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn keeps_serving_when_its_log_is_closed() {
    let dns = one_host().await;
    let server = Server::start(&admit_one_host(&dns)).await;
    server.ready().await;
    assert_eq!(server.get(UNLISTED, "/verify").await.status, 403);
    let mut unread = server.unread();
    for _ in 0..3 {
        assert_eq!(unread.get("127.0.2.9", "/verify").await.status, 403);
        assert_eq!(unread.get(LISTED, "/verify").await.status, 200);
    }
    unread.signal("TERM").await;
    assert_eq!(unread.ended().await.code(), Some(0));
}

/// Returns the start of the next response, without its reason phrase.
async fn status_line(stream: &mut TcpStream) -> String {
    let mut start = [0; "HTTP/1.1 200".len()];
    let read: io::Result<_> = stream.read_exact(&mut start).await;
    read.expect("a response");
    // Skips the rest of the head, so that the next response can be read.
    let mut end = [0; 4];
    while &end != b"\r\n\r\n" {
        end.rotate_left(1);
        end[3] = stream.read_u8().await.expect("a whole head");
    }
    String::from_utf8_lossy(&start).into_owned()
}

/// Returns status, tag, host, reason and `Retry-After` of a response.
fn summary(reply: &Reply) -> String {
    let header = |name| reply.header(name).unwrap_or("-");
    format!(
        "{} {} {} {} {}",
        reply.status,
        header("x-callback-source"),
        header("x-callback-host"),
        header("x-callback-reason"),
        header("retry-after"),
    )
}
