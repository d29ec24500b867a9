//! The status page in a browser. `.ci/long page` runs this test, which needs Chromium.

use std::path::Path;

use integration_tests::http::Client;
use tokio::process::Command;

use crate::{
    server::Server,
    setup::{LISTED, UNLISTED, admit_one_host, ip, one_host},
};

#[tokio::test]
async fn the_status_page_is_readable_in_a_browser_without_an_error() {
    let Ok(modules) = std::env::var("PAGE_MODULES") else {
        eprintln!("skipped: `.ci/long page` installs a browser");
        return;
    };
    let dns = one_host().await;
    dns.set("one.example", 1, &[ip(LISTED)]);
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&format!(
        "{} --min-ttl 1s --journal {}",
        admit_one_host(&dns),
        folder.path().join("journal.jsonl").display(),
    ))
    .await;
    server.ready().await;
    for peer in [UNLISTED, "127.0.3.1"] {
        assert_eq!(server.get(peer, "/verify").await.status, 403);
    }
    look(&modules, &server, "well").await;

    dns.set("one.example", 1, &[ip(LISTED), ip("127.0.3.1")]);
    loop {
        let client = Client::from(ip("127.0.0.1"));
        let page = client
            .send(server.addr, "GET", "/status", &[], b"")
            .await
            .unwrap();
        if page
            .text()
            .contains("was refused before an answer named it")
        {
            break;
        }
    }
    look(&modules, &server, "problem").await;
}

/// Opens the page in a browser, and saves the screenshots in a folder below `PAGE_MODULES`.
async fn look(modules: &str, server: &Server, state: &str) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/page/look.mjs");
    let folder = Path::new(modules).join(state);
    std::fs::create_dir_all(&folder).unwrap();
    let url = format!("http://{}/status", server.addr);
    let looked = Command::new("node")
        .arg(script)
        .arg(url)
        .arg(&folder)
        .output()
        .await;
    let looked = looked.expect("node is installed");
    assert!(
        looked.status.success(),
        "{}",
        String::from_utf8_lossy(&looked.stderr)
    );
}
