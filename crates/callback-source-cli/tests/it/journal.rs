//! The journal, and the commands that ask a running server.

use std::{
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use integration_tests::{
    dns::{DnsServer, Fault, ResponseCode},
    http::Client,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    time::timeout,
};

use crate::{
    server::Server,
    setup::{LISTED, UNLISTED, admit_one_host, command, ip, one_host, run},
};

const NEW: &str = "127.0.3.1";

/// Starts a server with a journal in this folder, and with an admin listener.
async fn start(dns: &DnsServer, folder: &Path) -> Server {
    let server = Server::start(&format!(
        "{} --min-ttl 1s --journal {journal} --admin-listen 127.0.0.1:0",
        admit_one_host(dns),
        journal = folder.join("journal.jsonl").display(),
    ))
    .await;
    server.ready().await;
    server
}

async fn ask(server: &Server, line: &str) -> Output {
    run(&format!("{line} --admin-listen {}", server.admin.unwrap())).await
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Repeats a command until its output contains a text, and returns this output.
async fn answer(server: &Server, line: &str, expected: &str) -> String {
    let asked = async {
        loop {
            let shown = text(&ask(server, line).await);
            if shown.contains(expected) {
                return shown;
            }
        }
    };
    let answer = timeout(Duration::from_secs(60), asked).await;
    answer.unwrap_or_else(|_| panic!("`{line}` never shows `{expected}`"))
}

#[tokio::test]
async fn three_questions_have_an_answer_after_a_rotation_an_outage_and_a_restart() {
    let dns = one_host().await;
    dns.set("one.example", 1, &[ip(LISTED)]);
    let folder = tempfile::tempdir().unwrap();
    let server = start(&dns, folder.path()).await;
    answer(
        &server,
        "history",
        &format!("added: {LISTED} of one.example"),
    )
    .await;
    assert_eq!(
        ask(&server, "history --only refusals").await.status.code(),
        Some(1)
    );

    // A new server of the provider sends callbacks before DNS contains its address.
    for (peer, status) in [(UNLISTED, 403), (NEW, 403), (NEW, 403), (LISTED, 200)] {
        assert_eq!(server.get(peer, "/verify").await.status, status, "{peer}");
    }
    dns.set("one.example", 1, &[ip(NEW)]);

    // Did the provider rotate its addresses?
    let changes = answer(&server, "history --only changes --since today", "lingers").await;
    assert!(
        changes.contains(&format!("added: {NEW} of one.example")),
        "{changes}"
    );
    assert!(
        changes.contains(&format!("lingers: {LISTED} of one.example")),
        "{changes}"
    );
    // Did we refuse anyone?
    let refused = ask(&server, "history --only refusals --since 1h").await;
    assert_eq!(refused.status.code(), Some(0));
    let refused = text(&refused);
    assert!(
        refused.contains(&format!("refused: {UNLISTED}, not-listed, 1 times")),
        "{refused}"
    );
    assert!(
        refused.contains(&format!("refused: {NEW}, not-listed, 2 times")),
        "{refused}"
    );
    // Did we refuse a server of the provider?
    let them = ask(&server, "history --only refused-then-listed").await;
    assert_eq!(them.status.code(), Some(0));
    let them = text(&them);
    let expected = format!("{NEW} is a server of one.example; refused 2 times");
    assert!(
        them.contains(&expected) && them.lines().count() == 1,
        "{them}"
    );

    dns.set_fault("one.example", Fault::Rcode(ResponseCode::ServFail));
    answer(
        &server,
        "history --only outages",
        "lookups fail: one.example A: ",
    )
    .await;
    dns.clear_faults();
    answer(
        &server,
        "history --only outages",
        "lookups work again: one.example A",
    )
    .await;

    let before = text(&ask(&server, "history --only changes").await);
    server.stop().await;
    let server = start(&dns, folder.path()).await;
    let operation = answer(&server, "history --only operation", "stopped").await;
    assert_eq!(
        operation.matches("started: version").count(),
        2,
        "{operation}"
    );
    // Wait until the recorder has recorded a removed address.
    answer(&server, "history --only changes", "removed: ").await;
    let after = text(&ask(&server, "history --only changes").await);
    assert!(after.starts_with(&before), "{before}\n{after}");
    assert_eq!(
        after.matches(&format!("added: {NEW}")).count(),
        1,
        "{after}"
    );
    assert_eq!(
        text(&ask(&server, "history --only refused-then-listed").await),
        them
    );
}

#[tokio::test]
async fn status_and_explain_ask_the_running_server() {
    let dns = one_host().await;
    let folder = tempfile::tempdir().unwrap();
    let server = start(&dns, folder.path()).await;
    let status = ask(&server, "status").await;
    assert_eq!(status.status.code(), Some(0));
    let status = text(&status);
    assert!(status.starts_with("ready, up "), "{status}");
    assert!(status.contains("one.example: 1 addresses"), "{status}");

    assert_eq!(server.get(UNLISTED, "/verify").await.status, 403);
    let listed = ask(&server, &format!("explain {LISTED}")).await;
    assert_eq!(listed.status.code(), Some(0));
    let listed = text(&listed);
    assert!(
        listed.starts_with(&format!("{LISTED} is admitted: one.example, fresh")),
        "{listed}"
    );
    let unlisted = ask(&server, &format!("explain {UNLISTED}")).await;
    assert_eq!(unlisted.status.code(), Some(1));
    let unlisted = text(&unlisted);
    assert!(
        unlisted.starts_with(&format!("{UNLISTED} is refused with 403: not-listed")),
        "{unlisted}"
    );
    assert!(unlisted.contains("not-listed, 1 times"), "{unlisted}");

    let now = answer(
        &server,
        &format!("explain {LISTED} --at 0s"),
        "was listed by one.example",
    )
    .await;
    assert!(now.contains("added: "), "{now}");
    let earlier = ask(&server, &format!("explain {LISTED} --at yesterday")).await;
    assert_eq!(earlier.status.code(), Some(1));
    assert!(
        text(&earlier).contains("was not listed by any host"),
        "{earlier:?}"
    );
}

#[tokio::test]
async fn explain_does_not_deny_that_a_peer_was_listed_if_older_lines_were_removed() {
    let dns = one_host().await;
    let folder = tempfile::tempdir().unwrap();
    let oldest = "{\"id\":500,\"at\":\"2026-11-01T00:00:00Z\",\"event\":\"stopped\"}\n";
    std::fs::write(folder.path().join("journal.jsonl"), oldest).unwrap();
    let server = start(&dns, folder.path()).await;
    let earlier = ask(&server, &format!("explain {LISTED} --at 2026-11-02")).await;
    assert_eq!(earlier.status.code(), Some(2), "{earlier:?}");
    let earlier = text(&earlier);
    let expected = format!("unknown whether {LISTED} was listed at 2026-11-02T00:00:00Z");
    assert!(earlier.starts_with(&expected), "{earlier}");
    assert!(
        earlier.contains("from before 2026-11-01T00:00:00Z"),
        "{earlier}"
    );
}

#[cfg(unix)]
#[tokio::test]
async fn the_admin_listener_can_be_a_unix_socket_that_the_configuration_names() {
    let dns = one_host().await;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let file = folder.path().join("config.toml");
    std::fs::write(
        &file,
        format!("admin-listen = \"unix:{}\"\n", socket.display()),
    )
    .unwrap();
    let server = Server::start(&format!(
        "{} --config {}",
        admit_one_host(&dns),
        file.display()
    ))
    .await;
    server.ready().await;
    let status = run(&format!("status --json --config {}", file.display())).await;
    assert_eq!(status.status.code(), Some(0), "{status:?}");
    assert!(text(&status).contains("\"ready\": true"));
    let history = run(&format!("history --config {}", file.display())).await;
    assert_eq!(history.status.code(), Some(2));
    let error = String::from_utf8(history.stderr).unwrap();
    assert!(
        error.contains("hint: start `serve` with `--journal PATH`"),
        "{error}"
    );
}

#[tokio::test]
async fn a_server_that_does_not_run_is_an_error_with_the_next_step() {
    let output = run("status --admin-listen 127.0.0.1:1").await;
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.starts_with("error: cannot ask the server at 127.0.0.1:1: "),
        "{error}"
    );
    assert!(error.contains("hint: give the admin listener"), "{error}");
}

#[tokio::test]
async fn the_status_page_shows_refusals_and_loads_nothing() {
    let dns = one_host().await;
    let folder = tempfile::tempdir().unwrap();
    let server = start(&dns, folder.path()).await;
    assert_eq!(server.get(UNLISTED, "/verify").await.status, 403);
    let client = Client::from(ip("127.0.0.1"));
    let admin = server.admin.unwrap();
    let reply = client
        .send(admin, "GET", "/status", &[], b"")
        .await
        .unwrap();
    assert_eq!(
        reply.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    let policy = reply.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none';"), "{policy}");
    assert_eq!(reply.header("refresh"), Some("30"));
    let still = client
        .send(admin, "GET", "/status?still", &[], b"")
        .await
        .unwrap();
    assert_eq!(still.header("refresh"), None);
    let page = reply.text();
    assert!(
        page.contains("<h1 class=\"well\">All is well</h1>"),
        "{page}"
    );
    assert!(
        page.contains(&format!(
            "<th scope=\"row\">{UNLISTED}</th><td>not-listed</td>"
        )),
        "{page}"
    );
    assert!(page.contains("a proxy that is not trusted?"), "{page}");
    assert!(!page.contains("<script"), "{page}");
}

#[cfg(unix)]
#[tokio::test]
async fn watch_prints_each_event_and_runs_a_command_at_a_change() {
    let dns = one_host().await;
    dns.set("one.example", 1, &[ip(LISTED)]);
    let folder = tempfile::tempdir().unwrap();
    let server = start(&dns, folder.path()).await;
    answer(&server, "history", "added: ").await;
    let copy = folder.path().join("copy");
    let admin = server.admin.unwrap().to_string();
    let mut watch = command(["watch", "--admin-listen", &admin, "--on-change"]);
    watch
        .env("PATH", "/bin:/usr/bin")
        .arg(format!("cat >> {}", copy.display()));
    let mut child = watch
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut messages = BufReader::new(child.stderr.take().unwrap()).lines();
    let first = messages.next_line().await.unwrap().unwrap();
    assert!(first.starts_with("note: waiting for events"), "{first}");
    dns.set("one.example", 1, &[ip(LISTED), ip(NEW)]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = timeout(Duration::from_secs(60), lines.next_line()).await;
    let line = line.expect("it prints the change").unwrap().unwrap();
    assert!(
        line.ends_with(&format!("added: {NEW} of one.example")),
        "{line}"
    );
    let copied = async {
        while !std::fs::read_to_string(&copy).is_ok_and(|text| text.contains(NEW)) {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(60), copied)
        .await
        .expect("the command runs");
}
