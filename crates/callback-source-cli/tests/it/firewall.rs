//! `follow nftables:…` with real packets, between network namespaces of the test.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use integration_tests::{
    dns::{DnsServer, Fault, ResponseCode},
    netns::{self, Netns, SERVER, SERVER6},
    until,
};
use tempfile::TempDir;
use tokio::{process::Command, time::Instant};

use crate::{
    server::Server,
    setup::{ask, command, ip, run},
};

const FIRST: &str = "203.0.113.10";
const SECOND: &str = "203.0.113.11";
const UNLISTED: &str = "203.0.113.66";
const FIRST6: &str = "2001:db8::10";
const PORT: u16 = 443;

/// A server behind the printed ruleset, its clients, and a DNS server.
struct Firewall {
    server: Netns,
    client: Netns,
    dns: DnsServer,
    /// Folder with a program `nft` for the follower.
    folder: TempDir,
    /// Time of the last packet from each client.
    seen: Arc<Mutex<std::collections::HashMap<std::net::IpAddr, Instant>>>,
}

impl Firewall {
    async fn new() -> Option<Self> {
        let (server, client) = netns::connected(&[FIRST, SECOND, UNLISTED, FIRST6])?;
        let ruleset = run("follow --print-ruleset").await.stdout;
        server.load(std::str::from_utf8(&ruleset).unwrap());
        let dns = DnsServer::start().await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        server.wrap_nft(folder.path()).unwrap();
        let firewall = Self {
            seen: Arc::default(),
            server,
            client,
            dns,
            folder,
        };
        firewall.listen();
        Some(firewall)
    }

    /// Echoes bytes over TCP, and records the time of each client's last UDP packet.
    fn listen(&self) {
        for address in [SERVER, SERVER6] {
            let address = SocketAddr::new(ip(address), PORT);
            let (listener, socket) = self.server.within(|| {
                (
                    TcpListener::bind(address).unwrap(),
                    UdpSocket::bind(address).unwrap(),
                )
            });
            let seen = Arc::clone(&self.seen);
            // The threads end with the process of the tests.
            thread::spawn(move || {
                let mut packet = [0; 16];
                while let Ok((_, client)) = socket.recv_from(&mut packet) {
                    seen.lock().unwrap().insert(client.ip(), Instant::now());
                }
            });
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    thread::spawn(move || echo(stream));
                }
            });
        }
    }

    fn move_to(&self, ttl: u32, addresses: &[&str]) {
        let addresses: Vec<_> = addresses.iter().map(|address| ip(address)).collect();
        self.dns.set("one.psp.example", ttl, &addresses);
    }

    fn command(&self, args: &str) -> Command {
        let line = format!(
            "follow --host one.psp.example --allow-special-addresses --min-ttl 1s {} {args} {TARGET}",
            ask(&self.dns)
        );
        let mut command = command(line.split_whitespace());
        command.env("PATH", self.folder.path());
        command
    }

    async fn follow(&self, args: &str) -> Server {
        let command = self.command(&format!("--admin-listen 127.0.0.1:0 {args}"));
        Server::of_command(command, false).await
    }

    /// Connects to the server from a client's address.
    fn connect(&self, from: &str) -> io::Result<TcpStream> {
        let to = if from.contains(':') { SERVER6 } else { SERVER };
        let (from, to) = (SocketAddr::new(ip(from), 0), SocketAddr::new(ip(to), PORT));
        let socket = self.client.within(|| {
            let socket = match from {
                SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4(),
                SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6(),
            }?;
            socket.bind(from)?;
            Ok::<_, io::Error>(socket)
        })?;
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                let connected =
                    tokio::time::timeout(Duration::from_millis(300), socket.connect(to));
                let stream = connected.await.map_err(|_| io::ErrorKind::TimedOut)??;
                let stream = stream.into_std()?;
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(Duration::from_secs(5)))?;
                Ok(stream)
            })
        })
    }

    /// Returns whether an attempt to connect succeeds. Under load, an attempt can exceed its time limit of 300 ms.
    fn is_open_to(&self, client: &str) -> bool {
        self.connect(client).is_ok()
    }

    /// Sends a packet every 20 ms from an address, until no packet has arrived for a second. Returns the time of the
    /// last packet that arrived.
    async fn last_packet(&self, from: &str) -> Instant {
        let socket = self
            .client
            .within(|| UdpSocket::bind(SocketAddr::new(ip(from), 0)).unwrap());
        let began = Instant::now();
        loop {
            socket.send_to(b"callback", (SERVER, PORT)).unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
            let seen = self.seen.lock().unwrap().get(&ip(from)).copied();
            let last = seen.unwrap_or(began);
            if last.elapsed() > Duration::from_secs(1) {
                return last;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "it never closes");
        }
    }

    /// Returns ten times the time that `nft` takes on this machine now. `nft` usually takes about 50 ms, but it takes
    /// seconds while other jobs use the processors.
    fn slack(&self) -> Duration {
        let began = Instant::now();
        let _ = self.server.nft("list tables");
        began.elapsed() * 10
    }

    fn elements(&self) -> String {
        let listed = self.server.try_nft("list table inet callback_source");
        String::from_utf8_lossy(&listed.stdout).into_owned()
    }

    /// Returns the remaining time of an element's timeout.
    fn expires(&self, address: &str) -> Duration {
        let elements = self.elements();
        let element = elements
            .split(',')
            .find(|element| element.contains(address));
        let rest = element.and_then(|element| element.split("expires ").nth(1));
        let rest = rest.and_then(|rest| rest.split_whitespace().next());
        humantime::parse_duration(rest.unwrap_or_else(|| panic!("{elements}"))).unwrap()
    }

    /// Returns the time at which the last question for A records arrived.
    fn last_question(&self) -> Instant {
        let questions = self.dns.questions();
        let mut questions = questions.iter().rev();
        let last = questions.find(|asked| asked.record_type.to_string() == "A");
        last.expect("it was asked").at
    }
}

fn echo(mut stream: TcpStream) {
    let mut byte = [0];
    while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
}

/// Returns whether the server echoes a byte over an open connection.
fn is_alive(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    stream.write_all(b"x").is_ok() && stream.read_exact(&mut byte).is_ok()
}

fn is_near(found: Instant, expected: Instant, slack: Duration) -> bool {
    let early = expected.saturating_duration_since(found);
    let late = found.saturating_duration_since(expected);
    // The kernel removes an element when its timeout, in whole seconds, ends. The client sends a packet every 20 ms.
    early < Duration::from_millis(100) + slack && late < Duration::from_millis(1_100) + slack
}

const TARGET: &str = "nftables:inet/callback_source/callers";

#[tokio::test(flavor = "multi_thread")]
async fn listed_clients_get_in_and_a_rotation_is_followed_without_cutting_a_connection() {
    let Some(firewall) = Firewall::new().await else {
        return;
    };
    assert!(!firewall.is_open_to(FIRST));
    firewall.move_to(1, &[FIRST, FIRST6]);
    let follow = firewall.follow("--linger 4s").await;
    follow.has_logged("target changed").await;
    assert!(firewall.is_open_to(FIRST) && firewall.is_open_to(FIRST6));
    assert!(!firewall.is_open_to(SECOND) && !firewall.is_open_to(UNLISTED));

    let mut open = firewall.connect(FIRST).unwrap();
    let rotated = Instant::now();
    firewall.move_to(1, &[SECOND, FIRST6]);
    while !firewall.is_open_to(SECOND) {
        assert!(
            rotated.elapsed() < Duration::from_secs(20),
            "{}",
            follow.log()
        );
    }
    let took = rotated.elapsed();
    // The limit is the TTL plus 1.5 s, plus up to 300 ms of the last attempt to connect, plus a margin for other tests.
    let limit = Duration::from_millis(3_000) + firewall.slack();
    assert!(took < limit, "{took:?} of {limit:?}");
    assert!(firewall.is_open_to(FIRST), "it does not linger");
    until(|| !firewall.elements().contains(FIRST)).await;
    assert!(!firewall.is_open_to(FIRST) && firewall.is_open_to(SECOND));
    assert!(is_alive(&mut open), "an open connection was cut");
    assert!(firewall.is_open_to(FIRST6) && !firewall.is_open_to(UNLISTED));
    follow.stop().await;
    assert!(firewall.is_open_to(SECOND), "a stop closes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_is_killed_leaves_elements_that_end_with_their_windows() {
    let Some(firewall) = Firewall::new().await else {
        return;
    };
    firewall.move_to(2, &[FIRST]);
    // The stale window is longer than the 6.5 s for which an expired answer always stays in use.
    let follow = firewall.follow("--stale-for 8s").await;
    follow.has_logged("target changed").await;
    // Wait until a refresh has just reached the kernel, so that the next refresh has not begun.
    let rest = firewall.expires(FIRST);
    until(|| rest < firewall.expires(FIRST)).await;
    follow.signal("KILL").await;
    let window_ends = firewall.last_question() + Duration::from_secs(2 + 8);
    let closed = firewall.last_packet(FIRST).await;
    assert!(
        is_near(closed, window_ends, firewall.slack()),
        "{:?} after the end or {:?} before it",
        closed.saturating_duration_since(window_ends),
        window_ends.saturating_duration_since(closed)
    );
    assert!(!firewall.is_open_to(FIRST));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_dns_leaves_the_firewall_open_for_the_stale_window() {
    let Some(firewall) = Firewall::new().await else {
        return;
    };
    firewall.move_to(1, &[FIRST]);
    firewall.dns.set("two.psp.example", 1, &[ip(SECOND)]);
    let follow = firewall
        .follow("--stale-for 8s --host two.psp.example")
        .await;
    until(|| firewall.elements().contains(FIRST) && firewall.elements().contains(SECOND)).await;
    // If a single name no longer exists, its address stays admitted until its window ends.
    firewall.dns.remove("two.psp.example");
    let asked = firewall.dns.total();
    until(|| firewall.dns.total() > asked + 6).await;
    for client in [FIRST, SECOND] {
        let (elements, log) = (firewall.elements(), follow.log());
        assert!(firewall.is_open_to(client), "{client}: {elements}\n{log}");
    }

    let last = firewall.last_question();
    firewall
        .dns
        .set_fault("one.psp.example", Fault::Rcode(ResponseCode::ServFail));
    firewall
        .dns
        .set_fault("two.psp.example", Fault::Rcode(ResponseCode::ServFail));
    let closed = firewall.last_packet(FIRST).await;
    let open_for = closed.saturating_duration_since(last);
    // The limit is the sum of the TTL and the stale window, with a margin. Another refresh may have begun before the
    // fault, and the timeout is rounded up.
    let latest = Duration::from_millis(12_500) + firewall.slack();
    assert!(
        (Duration::from_millis(8_900)..latest).contains(&open_for),
        "{open_for:?} of {latest:?}"
    );
    firewall.dns.clear_faults();
    until(|| firewall.is_open_to(FIRST)).await;
    follow.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flushed_ruleset_is_restored_within_five_seconds() {
    let Some(firewall) = Firewall::new().await else {
        return;
    };
    firewall.move_to(60, &[FIRST, FIRST6]);
    let follow = firewall.follow("").await;
    until(|| firewall.elements().contains(FIRST6)).await;
    for flush in [
        "flush ruleset",
        "flush set inet callback_source callers",
        "delete table inet callback_source",
    ] {
        let flushed = Instant::now();
        let _ = firewall.server.nft(flush);
        until(|| {
            let elements = firewall.elements();
            elements.contains(FIRST) && elements.contains(FIRST6)
        })
        .await;
        let took = flushed.elapsed();
        let limit = Duration::from_secs(5) + firewall.slack();
        assert!(took < limit, "{flush}: {took:?} of {limit:?}");
    }
    // The rules are loaded again, as at the start of `nftables.service`. The elements are kept.
    let ruleset = run("follow --print-ruleset").await.stdout;
    firewall.server.load(std::str::from_utf8(&ruleset).unwrap());
    firewall.server.load(std::str::from_utf8(&ruleset).unwrap());
    assert!(firewall.is_open_to(FIRST) && !firewall.is_open_to(UNLISTED));
    let drops = firewall.elements().matches("drop").count();
    assert_eq!(drops, 1, "the rules were loaded twice");
    follow.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn elements_of_others_are_left_alone_and_a_restart_removes_old_ones() {
    let Some(firewall) = Firewall::new().await else {
        return;
    };
    firewall.move_to(60, &[FIRST]);
    firewall.server.load(&format!(
        "add element inet callback_source callers {{ {UNLISTED}, 203.0.113.77 timeout 1h, \
         203.0.113.88 timeout 1h comment \"callback-source\" }}"
    ));
    let output = firewall.command("--dry-run").output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(text, format!("{TARGET}\n+ {FIRST}\n- 203.0.113.88\n"));
    assert_eq!(output.status.code(), Some(1));
    let output = firewall.command("--once").output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let elements = firewall.elements();
    assert!(
        elements.contains(UNLISTED) && elements.contains("203.0.113.77"),
        "{elements}"
    );
    assert!(
        elements.contains(FIRST) && !elements.contains("203.0.113.88"),
        "{elements}"
    );
    assert!(
        firewall.is_open_to(UNLISTED),
        "an element of another program was removed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_that_are_redirected_are_filtered_by_the_printed_ruleset() {
    let Some(firewall) = Firewall::new().await else {
        return;
    };
    firewall.move_to(60, &[FIRST]);
    let follow = firewall.follow("").await;
    until(|| firewall.elements().contains(FIRST)).await;
    // Docker publishes a port by DNAT in prerouting, to a container. Here the target is 127.0.0.1:8443.
    let inner = firewall
        .server
        .within(|| TcpListener::bind(("127.0.0.1", 8443)).unwrap());
    thread::spawn(move || inner.incoming().flatten().for_each(echo));
    firewall.server.within(|| {
        std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap();
        std::fs::write("/proc/sys/net/ipv4/conf/s0/route_localnet", "1").unwrap();
    });
    firewall.server.load(
        "table ip docker { chain prerouting { type nat hook prerouting priority dstnat; \
         tcp dport 443 dnat to 127.0.0.1:8443; }; \
         chain input { type filter hook input priority filter; tcp dport 443 drop; }; }",
    );
    let mut redirected = firewall.connect(FIRST).unwrap();
    assert!(is_alive(&mut redirected));
    assert!(!firewall.is_open_to(UNLISTED), "a redirected port is open");
    follow.stop().await;
}

#[tokio::test]
async fn without_the_capability_the_error_names_it() {
    if integration_tests::servers::find(["nft", "setpriv"]).is_none() {
        return;
    }
    let dns = crate::setup::zone().await;
    let line = format!("follow --once --host one.example {} {TARGET}", ask(&dns));
    let follow = command(line.split_whitespace());
    let mut setpriv = Command::new("setpriv");
    setpriv.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    setpriv.args(["--inh-caps=-all", "--bounding-set=-all"]);
    setpriv.arg(follow.as_std().get_program());
    setpriv.args(follow.as_std().get_args());
    let output = setpriv.output().await.unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("CAP_NET_ADMIN"), "{stderr}");
}

/// Sends requests from a listed address until `is_over` is set. Returns the statuses.
async fn statuses(
    port: u16,
    from: &'static str,
    is_over: Arc<std::sync::atomic::AtomicBool>,
) -> Vec<u16> {
    let mut statuses = Vec::new();
    while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
        let status = status(port, from).await;
        statuses.push(status);
    }
    statuses
}

async fn status(port: u16, from: &str) -> u16 {
    let client = integration_tests::http::Client::from(ip(from));
    let server = SocketAddr::from(([127, 0, 0, 1], port));
    let reply = client.send(server, "GET", "/", &[], b"").await;
    reply.map_or(0, |reply| reply.status)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_rotation_changes_every_target_once_and_loses_no_packet() {
    const STAYS: &str = "203.0.113.12";
    let Some(firewall) = Firewall::new().await else {
        return;
    };
    let Some([nginx, haproxy]) = integration_tests::servers::find(["nginx", "haproxy"]) else {
        return;
    };
    firewall.dns.set(
        "two.psp.example",
        1,
        &[ip("127.0.1.3"), ip(UNLISTED), ip(STAYS)],
    );
    firewall.move_to(1, &[FIRST, "127.0.1.1"]);
    let folder = firewall.folder.path().display().to_string();
    for file in ["callers.geo", "callers.acl"] {
        std::fs::write(firewall.folder.path().join(file), "").unwrap();
    }
    let localhost = std::net::Ipv4Addr::LOCALHOST.into();
    let (_nginx, nginx_port) = integration_tests::servers::on_free_port(localhost, async |addr| {
        let dir = tempfile::tempdir()?;
        let inside = dir.path().display();
        let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {inside}/{kind};"))
            .concat();
        let config = format!(
            "daemon off; user root; pid {folder}/nginx.pid; error_log stderr; events {{}} http {{ access_log off; \
             {temp} geo $listed {{ default 0; include {folder}/callers.geo; }} server {{ listen {addr}; \
             if ($listed = 0) {{ return 403; }} location / {{ return 200; }} }} }}"
        );
        std::fs::write(dir.path().join("nginx.conf"), config)?;
        let config = format!("{inside}/nginx.conf");
        let arguments = ["-e", "stderr", "-c", &config];
        let mut server = integration_tests::servers::Server::start(&nginx, &arguments, dir)?;
        server.ready(addr).await?;
        Ok((server, addr.port()))
    })
    .await
    .unwrap();
    let (_haproxy, haproxy_port) = integration_tests::servers::on_free_port(localhost, async |addr| {
        let dir = tempfile::tempdir()?;
        let config = format!(
            "global\n stats socket {folder}/admin.sock level admin\ndefaults\n mode http\n timeout connect 5s\n \
             timeout client 30s\n timeout server 30s\nfrontend all\n bind {addr}\n \
             acl listed src -f {folder}/callers.acl\n http-request deny deny_status 403 if !listed\n \
             http-request return status 200\n"
        );
        std::fs::write(dir.path().join("haproxy.cfg"), config)?;
        let arguments = ["-db", "-f", "haproxy.cfg"];
        let mut server = integration_tests::servers::Server::start(&haproxy, &arguments, dir)?;
        server.ready(addr).await?;
        Ok((server, addr.port()))
    })
    .await
    .unwrap();

    let mut follow = firewall.command("--admin-listen 127.0.0.1:0 --host two.psp.example");
    let path = format!("{folder}:/usr/bin:/bin");
    follow.env("PATH", path);
    let targets = [
        TARGET.to_owned(),
        format!("haproxy:{folder}/admin.sock:{folder}/callers.acl"),
        format!("file:nginx-geo:{folder}/callers.geo"),
        format!("file:plain:{folder}/callers"),
    ];
    follow.args(&targets[1..]);
    follow.args([
        "--on-change",
        &format!("kill -s HUP $(cat {folder}/nginx.pid)"),
    ]);
    let follow = Server::of_command(follow, false).await;
    let changes = |target: &str| {
        let log = follow.log();
        let lines = log.lines().filter(|line| line.contains("target changed"));
        lines.filter(|line| line.contains(target)).count()
    };
    until(|| targets.iter().all(|target| changes(target) == 1)).await;
    let opens = async |client: &str| {
        // After a reload, an nginx worker with the previous file accepts connections for a moment.
        let wait = async {
            let mut in_a_row = 0;
            while in_a_row < 30 {
                let is_open = status(nginx_port, client).await == 200
                    && status(haproxy_port, client).await == 200;
                in_a_row = if is_open { in_a_row + 1 } else { 0 };
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(20), wait).await;
        assert!(in_time.is_ok(), "{client}: {}", follow.log());
    };
    opens("127.0.1.3").await;
    opens("127.0.1.1").await;

    // Listed clients send requests during the whole rotation.
    let is_over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let callers = [nginx_port, haproxy_port]
        .map(|port| tokio::spawn(statuses(port, "127.0.1.3", Arc::clone(&is_over))));
    let source = firewall
        .client
        .within(|| UdpSocket::bind((UNLISTED, 0)).unwrap());
    let packets = {
        let is_over = Arc::clone(&is_over);
        thread::spawn(move || {
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                source.send_to(b"callback", (SERVER, PORT)).unwrap();
                thread::sleep(Duration::from_millis(1));
            }
        })
    };
    let dropped_before = dropped(&firewall);
    firewall.move_to(1, &[SECOND, "127.0.1.2"]);
    until(|| targets.iter().all(|target| changes(target) == 2)).await;
    opens("127.0.1.2").await;
    assert_eq!(dropped(&firewall), dropped_before, "a packet was lost");
    assert!(firewall.is_open_to(SECOND));
    is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    packets.join().unwrap();
    for caller in callers {
        let statuses = caller.await.unwrap();
        assert!(
            !statuses.is_empty() && statuses.iter().all(|status| *status == 200),
            "{statuses:?}"
        );
    }
    for target in &targets {
        assert_eq!(changes(target), 2, "{target}: {}", follow.log());
    }
    assert_eq!(status(nginx_port, "127.0.2.1").await, 403);
    assert_eq!(status(haproxy_port, "127.0.2.1").await, 403);
    follow.stop().await;
}

/// Returns the line of the rule that counts dropped packets.
fn dropped(firewall: &Firewall) -> String {
    let rules = firewall
        .server
        .nft("list chain inet callback_source callers_only");
    let line = rules.lines().find(|line| line.contains("drop"));
    line.expect("a rule").trim().to_owned()
}
