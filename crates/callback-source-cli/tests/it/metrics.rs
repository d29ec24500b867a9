//! `/metrics`, the first line of the log, and `demo`.

use std::{process::Stdio, sync::Mutex};

use integration_tests::http::Client;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::{
    server::{Server, listening},
    setup::{LISTED, UNLISTED, command, ip, run},
};

/// Returns the series of a text for Prometheus, without the comments.
fn series(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect()
}

#[tokio::test]
async fn metrics_of_the_list_and_of_the_server_have_at_most_forty_series() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().display();
    let all = format!(
        "--admin-listen 127.0.0.1:0 --journal {folder}/journal.jsonl --follow file:plain:{folder}/callers"
    );
    let server = Server::admitting_one_host(&all).await;
    for (peer, status) in [(LISTED, 200), (UNLISTED, 403)] {
        assert_eq!(server.get(peer, "/verify").await.status, status);
    }
    let admin = server.admin.unwrap();
    let reply = Client::from(ip("127.0.0.1"))
        .send(admin, "GET", "/metrics", &[], b"")
        .await;
    let reply = reply.unwrap();
    assert_eq!(
        reply.header("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    let text = reply.text();
    let series = series(&text);
    for expected in [
        "callback_source_serve_responses_total{status=\"200\"} 1",
        "callback_source_serve_responses_total{status=\"403\"} 1",
        "callback_source_serve_responses_total{status=\"503\"} 0",
        "callback_source_serve_response_seconds_bucket{le=\"+Inf\"} 2",
        "callback_source_serve_response_seconds_count 2",
        "callback_source_serve_log_lines_dropped_total 0",
    ] {
        assert!(series.contains(&expected), "no `{expected}` in {text}");
    }
    for started in [
        "callback_source_verdicts_total{",
        "callback_source_lookups_total{",
        "callback_source_addresses",
        "callback_source_serve_connections ",
        "callback_source_follow_targets_out_of_date 0",
    ] {
        assert!(
            series.iter().any(|series| series.starts_with(started)),
            "{started}: {text}"
        );
    }
    // Unless a client sends `CONNECT`, three more series appear with their first response: those of the statuses 400
    // and 500, and of another status that `--unsure-status` names.
    assert!(series.len() + 3 <= 40, "{} series: {text}", series.len());
}

#[tokio::test]
async fn metrics_are_shown_on_this_machine_only() {
    let server = Server::admitting_one_host("").await;
    assert_eq!(server.get("127.0.0.1", "/metrics").await.status, 200);
    let forwarded = [("x-forwarded-for", "127.0.0.1")];
    let reply = server
        .send("127.0.0.1", "GET", "/metrics", &forwarded)
        .await;
    assert_eq!(reply.status, 404);
}

#[tokio::test]
async fn the_log_begins_with_the_callers_windows_and_proxies() {
    let server = Server::admitting_one_host("--log-format json --linger 90m").await;
    let log = server.log();
    let line = log
        .lines()
        .find(|line| line.contains("\"starting\""))
        .unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["hosts"], serde_json::json!(["one.example"]));
    assert_eq!(line["networks"], serde_json::json!([]));
    assert_eq!(line["trusted_proxies"], serde_json::json!([]));
    assert_eq!(line["linger"], "1h 30m");
    assert_eq!(line["stale_for"], "1day");
    assert_eq!(line["report_only"], false);
}

#[tokio::test]
async fn the_demo_needs_no_configuration_and_ignores_variables() {
    let mut demo = command(["demo", "--listen", "127.0.0.1:0"]);
    demo.env("CALLBACK_SOURCE_HOST", "not a host")
        .env("CALLBACK_SOURCE_X", "unknown");
    let mut child = demo
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let address = listening(&mut lines, &Mutex::default()).await;
    while let Ok(Some(line)) = lines.next_line().await {
        if line.contains("ready") {
            break;
        }
    }
    for (peer, status) in [("127.0.0.1", 200), ("127.0.0.2", 403)] {
        let reply = Client::from(ip(peer))
            .send(address, "GET", "/verify", &[], b"")
            .await;
        assert_eq!(reply.unwrap().status, status, "{peer}");
    }
    let mut printed = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = printed.next_line().await.unwrap().unwrap();
    assert!(
        first.starts_with("Admits the addresses of callbacks.demo.example"),
        "{first}"
    );
}

#[tokio::test]
async fn the_demo_listens_on_this_machine_only() {
    let output = run("demo --listen 0.0.0.0:8480").await;
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("give a loopback address"), "{text}");
}
