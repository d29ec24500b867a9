//! Reloading the configuration file of `serve`.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use integration_tests::{
    dns::{DnsServer, Fault},
    http::{Client, Connection},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use crate::{
    server::Server,
    setup::{LISTED, UNLISTED, ip},
};

const OTHER: &str = "127.0.3.1";
const PROXY: &str = "127.0.9.1";

/// A server with a configuration file, and the DNS server that it asks.
struct Reloaded {
    server: Server,
    dns: DnsServer,
    file: PathBuf,
    _folder: TempDir,
    reloads: usize,
}

impl Reloaded {
    /// Starts a server with these keys. `one.example` and its alias have the address [`LISTED`]. `two.example` has
    /// the address [`OTHER`].
    async fn start(keys: &str) -> Self {
        let dns = DnsServer::start().await.unwrap();
        dns.set("one.example", 60, &[ip(LISTED)]);
        dns.set("alias.example", 60, &[ip(LISTED)]);
        dns.set("two.example", 60, &[ip(OTHER)]);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        fs::write(&file, keys).unwrap();
        let server = Server::start(&format!(
            "--allow-special-addresses --dns-server {} --config {}",
            dns.addr(),
            file.display()
        ))
        .await;
        server.ready().await;
        Self {
            server,
            dns,
            file,
            _folder: folder,
            reloads: 0,
        }
    }

    /// Writes the file.
    fn write(&self, keys: &str) {
        fs::write(&self.file, keys).unwrap();
    }

    /// Writes the file, sends SIGHUP, and waits for the line that reports the end of the reload.
    async fn reload(&mut self, keys: &str) {
        self.write(keys);
        self.server.signal("HUP").await;
        self.reloads += 1;
        self.server
            .has_logged_times("configuration reloaded", self.reloads)
            .await;
    }

    async fn refuses(&self, keys: &str, reason: &str) {
        self.write(keys);
        self.server.signal("HUP").await;
        self.server.has_logged(reason).await;
        assert!(self.server.log().contains("configuration not reloaded"));
    }

    async fn status(&self, peer: &str) -> u16 {
        self.server.get(peer, "/verify").await.status
    }
}

#[tokio::test]
async fn a_signal_reloads_the_hosts() {
    let mut reloaded = Reloaded::start("host = \"one.example\"\n").await;
    assert_eq!(reloaded.status(LISTED).await, 200);
    assert_eq!(reloaded.status(OTHER).await, 403);
    reloaded.reload("host = \"two.example\"\n").await;
    assert_eq!(reloaded.status(LISTED).await, 403);
    assert_eq!(reloaded.status(OTHER).await, 200);
    assert!(
        reloaded.server.log().contains("changed=\"host\""),
        "{}",
        reloaded.server.log()
    );
}

#[tokio::test]
async fn a_changed_file_is_taken_without_a_signal() {
    let reloaded = Reloaded::start("host = \"one.example\"\n").await;
    // Kubernetes replaces a ConfigMap in the same way: by another file at the same path.
    let new = reloaded.file.with_extension("new");
    fs::write(&new, "host = [\"one.example\", \"two.example\"]\n").unwrap();
    fs::rename(&new, &reloaded.file).unwrap();
    reloaded.server.has_logged("configuration reloaded").await;
    assert_eq!(reloaded.status(LISTED).await, 200);
    assert_eq!(reloaded.status(OTHER).await, 200);
}

#[tokio::test]
async fn an_invalid_file_is_refused_and_the_previous_configuration_stays() {
    let mut reloaded = Reloaded::start("host = \"one.example\"\n").await;
    for (keys, reason) in [
        ("", "the file has no keys any more"),
        (
            "# host = \"one.example\"\n",
            "the file has no keys any more",
        ),
        ("host = []\n", "config.toml:1:8: `host` has no value"),
        (
            "hosst = \"one.example\"\n",
            "config.toml:1:1: unknown key `hosst`",
        ),
        ("host = \"two.example\"\nallow = [\"0.0", "config.toml:2:"),
        (
            "host = \"two.example\"\nmax-connections = 9\n",
            "`max-connections` can be changed only by a restart",
        ),
        (
            "host = \"two.example\"\ntrusted-proxy = \"127.0.9.1\"\n",
            "`--trusted-proxy` requires `--client-ip-header` or `--proxy-protocol`",
        ),
        (
            "host = \"two.example\"\nlog = \"=x=\"\n",
            "invalid log filter `=x=`",
        ),
    ] {
        reloaded.refuses(keys, reason).await;
        assert_eq!(reloaded.status(LISTED).await, 200, "{keys}");
        assert_eq!(reloaded.status(OTHER).await, 403, "{keys}");
    }
    fs::remove_file(&reloaded.file).unwrap();
    reloaded.server.signal("HUP").await;
    reloaded
        .server
        .has_logged("cannot read the configuration from")
        .await;
    assert_eq!(reloaded.status(LISTED).await, 200);
    reloaded.reload("host = \"two.example\"\n").await;
    assert_eq!(reloaded.status(OTHER).await, 200);
}

#[tokio::test]
async fn a_host_that_is_replaced_by_another_name_of_its_server_stays_admitted() {
    let mut reloaded = Reloaded::start("host = \"one.example\"\n").await;
    // The delay is longer than the time for which an unlisted peer waits for an on-demand refresh.
    reloaded
        .dns
        .set_fault("alias.example", Fault::Delay(Duration::from_millis(1_500)));
    let stop = Arc::new(AtomicBool::new(false));
    let caller = {
        let (stop, server) = (Arc::clone(&stop), reloaded.server.addr);
        tokio::spawn(async move {
            let mut statuses = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let client = Client::from(ip(LISTED));
                let reply = client.send(server, "GET", "/verify", &[], b"").await;
                statuses.push(reply.unwrap().status);
            }
            statuses
        })
    };
    reloaded.reload("host = \"alias.example\"\n").await;
    stop.store(true, Ordering::Relaxed);
    let statuses = caller.await.unwrap();
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    let reply = reloaded.server.get(LISTED, "/verify").await;
    assert_eq!(reply.header("x-callback-host"), Some("alias.example"));
}

#[tokio::test]
async fn static_networks_change_without_a_restart() {
    let allow = |network: &str| format!("host = \"one.example\"\nallow = [\"{network}\"]\n");
    let mut reloaded = Reloaded::start(&allow("127.0.5.0/24")).await;
    for (network, admitted, refused) in [
        ("127.0.6.0/24", "127.0.6.1", "127.0.5.1"),
        ("127.0.5.0/24", "127.0.5.1", "127.0.6.1"),
    ] {
        reloaded.reload(&allow(network)).await;
        assert_eq!(reloaded.status(admitted).await, 200, "{network}");
        assert_eq!(reloaded.status(refused).await, 403, "{network}");
        assert_eq!(reloaded.status(LISTED).await, 200, "{network}");
    }
    reloaded.reload(&allow("127.0.6.0/24")).await;
    reloaded
        .refuses(&allow("0.0.0.0/0"), "contains every address")
        .await;
    assert_eq!(reloaded.status("127.0.6.1").await, 200);
}

#[tokio::test]
async fn a_network_that_is_replaced_by_a_host_stays_until_the_host_is_looked_up() {
    let allow = format!("host = \"two.example\"\nallow = [\"{LISTED}\"]\n");
    let reloaded = Reloaded::start(&allow).await;
    let slow = Fault::Delay(Duration::from_millis(1_500));
    reloaded.dns.set_fault("one.example", slow);
    reloaded.write("host = [\"one.example\", \"two.example\"]\n");
    reloaded.server.signal("HUP").await;
    while !reloaded.server.log().contains("configuration reloaded") {
        assert_eq!(reloaded.status(LISTED).await, 200);
    }
    let reply = reloaded.server.get(LISTED, "/verify").await;
    assert_eq!(reply.header("x-callback-host"), Some("one.example"));
}

#[tokio::test]
async fn report_only_mode_and_the_log_filter_change_without_a_restart() {
    let host = "host = \"one.example\"\n";
    let mut reloaded = Reloaded::start(&format!("{host}report-only = true\n")).await;
    assert_eq!(reloaded.status(UNLISTED).await, 200);
    reloaded.reload(host).await;
    assert_eq!(reloaded.status(UNLISTED).await, 403);
    reloaded
        .reload(&format!(
            "{host}unsure-status = 401\nlog = \"callback_source=debug\"\n"
        ))
        .await;
    assert_eq!(reloaded.status(LISTED).await, 200);
    reloaded.server.has_logged("DEBUG").await;
    reloaded
        .reload(&format!("{host}report-only = true\n"))
        .await;
    assert_eq!(reloaded.status(UNLISTED).await, 200);
}

#[tokio::test]
async fn a_proxy_is_trusted_from_the_next_request_of_its_connection() {
    let host = "host = \"one.example\"\n";
    let header = "client-ip-header = \"x-real-ip\"\n";
    let behind = |proxy: &str| format!("{host}{header}trusted-proxy = \"{proxy}\"\n");
    let mut reloaded = Reloaded::start(&behind("127.0.9.9")).await;
    let mut kept = reloaded.server.connect(PROXY).await;
    let named = [("x-real-ip", LISTED)];
    let mut status = async || {
        let reply = kept.send("GET", "/verify", &named, b"").await;
        reply.unwrap().status
    };
    assert_eq!(status().await, 403);
    reloaded.reload(&behind(PROXY)).await;
    assert_eq!(status().await, 200);
    reloaded.reload(&behind("127.0.9.9")).await;
    assert_eq!(status().await, 403);
}

#[tokio::test]
async fn a_proxy_that_is_no_longer_trusted_names_no_client_on_its_old_connection() {
    let keys = |proxies: &str| {
        format!("host = \"one.example\"\nproxy-protocol = true\ntrusted-proxy = [{proxies}]\n")
    };
    let mut reloaded = Reloaded::start(&keys("\"127.0.9.1\", \"127.0.9.2\"")).await;
    let mut kept = reloaded.server.stream(PROXY).await;
    let header = format!("PROXY TCP4 {LISTED} 127.0.0.1 4711 443\r\n");
    kept.write_all(header.as_bytes()).await.unwrap();
    assert_eq!(ask(&mut kept).await, "HTTP/1.1 200 OK");
    reloaded.reload(&keys("\"127.0.9.2\"")).await;
    assert_eq!(ask(&mut kept).await, "HTTP/1.1 403 Forbidden");
    reloaded.reload(&keys("\"127.0.9.1\"")).await;
    assert_eq!(ask(&mut kept).await, "HTTP/1.1 200 OK");
}

/// Sends a request over an open connection, and returns the status line of the response.
async fn ask(stream: &mut TcpStream) -> String {
    stream
        .write_all(b"HEAD /verify HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    head.lines().next().unwrap().to_owned()
}

/// Sends 10,000 requests, or the number in `RELOAD_REQUESTS`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_reloads_fail_no_request() {
    let requests = std::env::var("RELOAD_REQUESTS").ok();
    let requests: u64 = requests.map_or(10_000, |text| text.parse().unwrap());
    let mut reloaded = Reloaded::start("host = \"one.example\"\n").await;
    let done = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicU64::new(0));
    let server = reloaded.server.addr;
    let mut callers = JoinSet::new();
    for kept in [true, true, false] {
        callers.spawn(call(server, kept, Arc::clone(&done), Arc::clone(&sent)));
    }
    let configurations = [
        "host = \"alias.example\"\nlinger = \"2h\"\n",
        "host = [\"one.example\", \"two.example\"]\nlog = \"warn,callback_source=info\"\n",
        "host = \"one.example\"\nreport-only = true\nallow = \"127.0.5.0/24\"\n",
        "host = \"one.example\"\ntrusted-proxy = \"127.0.9.1\"\nclient-ip-header = \"x-real-ip\"\n",
        "host = [\"two.example\", \"alias.example\"]\nstale-for = \"1h\"\n",
    ];
    for number in 0..50 {
        reloaded
            .reload(configurations[number % configurations.len()])
            .await;
        // Without this wait, hardly any request would be sent between two reloads.
        let enough = requests * (number as u64 + 1) / 50;
        while sent.load(Ordering::Relaxed) < enough {
            tokio::task::yield_now().await;
        }
    }
    done.store(true, Ordering::Relaxed);
    while let Some(failed) = callers.join_next().await {
        assert_eq!(failed.unwrap(), Vec::<String>::new());
    }
    assert!(sent.load(Ordering::Relaxed) >= requests);
}

/// Sends requests of a listed peer. Returns the responses whose status is not 200.
async fn call(
    server: SocketAddr,
    kept: bool,
    done: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
) -> Vec<String> {
    let mut failed = Vec::new();
    let mut connection = Connection::connect(ip(LISTED), server).await.unwrap();
    while !done.load(Ordering::Relaxed) {
        if !kept {
            connection = Connection::connect(ip(LISTED), server).await.unwrap();
        }
        match connection.send("POST", "/verify", &[], b"body").await {
            Ok(reply) if reply.status == 200 => {}
            other => failed.push(format!("{other:?}")),
        }
        sent.fetch_add(1, Ordering::Relaxed);
    }
    failed
}
