//! The log on stderr, even when nothing reads stderr.

use std::{
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
    sync::Mutex,
    time::Duration,
};

use integration_tests::{
    dns::{Fault, FaultScope},
    http::{Client, Connection},
    within,
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::{TcpStream, UdpSocket},
    process::{Child, ChildStderr},
    task::JoinSet,
    time::timeout,
};

use crate::{
    server::{Server, listening},
    setup::{LISTED, UNLISTED, admit_one_host, ask, command, ip, one_host, run},
};

#[tokio::test]
async fn an_unread_log_does_not_stop_the_server() {
    let dns = one_host().await;
    let mut serve = Unread::start(&admit_one_host(&dns)).await;
    serve.overflow().await;
    for (peer, status) in [(LISTED, 200), (UNLISTED, 403)] {
        assert_eq!(serve.get(peer, "/verify").await.0, status);
    }
    assert_eq!(serve.get(LISTED, "/healthz").await.0, 200);
    serve.stops().await;
}

#[tokio::test]
async fn a_log_that_is_read_again_has_the_number_of_dropped_lines_and_the_last_line() {
    let dns = one_host().await;
    let mut serve = Unread::start(&admit_one_host(&dns)).await;
    serve.overflow().await;
    let mut lines = serve.lines.take().unwrap();
    let dropped = loop {
        let line = within(lines.next_line()).await.unwrap().unwrap();
        if let Some((_, rest)) = line.split_once("log_lines_dropped=") {
            break rest.to_owned();
        }
    };
    assert!(dropped.parse::<u64>().unwrap() > 0, "{dropped}");
    let rest = tokio::spawn(async move {
        let mut rest = Vec::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            rest.push(line);
        }
        rest
    });
    serve.stops().await;
    let rest = rest.await.unwrap();
    assert!(rest.iter().any(|line| line.ends_with(" stopped")));
}

/// A server whose log is not read after the start, unless a test reads `lines`.
struct Unread {
    child: Child,
    addr: SocketAddr,
    lines: Option<Lines<BufReader<ChildStderr>>>,
}

impl Unread {
    async fn start(args: &str) -> Self {
        let line = format!("serve --listen 127.0.0.1:0 --stop-delay 0s --log trace {args}");
        let mut serve = command(line.split_whitespace());
        let mut child = serve.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let addr = within(listening(&mut lines, &Mutex::default())).await;
        let serve = Self {
            child,
            addr,
            lines: Some(lines),
        };
        while serve.get(LISTED, "/readyz").await.0 != 200 {}
        serve
    }

    async fn get(&self, peer: &str, path: &str) -> (u16, String) {
        let client = Client::from(ip(peer));
        let reply = within(client.send(self.addr, "GET", path, &[], b"")).await;
        let reply = reply.unwrap();
        (reply.status, reply.text())
    }

    /// Sends requests until log lines are dropped.
    async fn overflow(&self) {
        // HTTP/2 causes many more trace lines than HTTP/1.
        let mut connection = Connection::connect_h2(ip(LISTED), self.addr).await.unwrap();
        let overflow = async {
            loop {
                for _ in 0..20 {
                    let reply = connection.send("GET", "/verify", &[], b"").await;
                    assert_eq!(reply.unwrap().status, 200);
                }
                let (_, status) = self.get("127.0.0.1", "/status.json").await;
                let status: Value = serde_json::from_str(&status).unwrap();
                if status["log_lines_dropped"].as_u64().unwrap() > 0 {
                    break;
                }
            }
        };
        let in_time = timeout(Duration::from_secs(60), overflow).await;
        in_time.expect("it goes on");
    }

    async fn stops(&mut self) {
        terminate(&self.child).await;
        let ended = timeout(Duration::from_secs(5), self.child.wait()).await;
        assert_eq!(ended.expect("it ends").unwrap().code(), Some(0));
    }
}

async fn terminate(child: &Child) {
    let id = child.id().unwrap().to_string();
    let mut kill = tokio::process::Command::new("kill");
    assert!(
        kill.args(["-s", "TERM", &id])
            .status()
            .await
            .unwrap()
            .success()
    );
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_unwritable_log_does_not_stop_the_server() {
    let dns = one_host().await;
    for (to, drops) in [("2>/dev/full", true), ("2>&-", false)] {
        let mut serve = tokio::process::Command::new("sh");
        let line = format!(
            "exec \"$0\" serve --listen 127.0.0.1:0 --stop-delay 0s {} {to}",
            admit_one_host(&dns)
        );
        serve.args(["-c", &line, env!("CARGO_BIN_EXE_callback-source")]);
        let mut child = serve.env_clear().kill_on_drop(true).spawn().unwrap();
        let addr = within(listening_of(&child)).await;
        let client = Client::from(ip(LISTED));
        let ready = async {
            loop {
                let reply = client.send(addr, "GET", "/readyz", &[], b"").await;
                if reply.is_ok_and(|reply| reply.status == 200) {
                    break;
                }
                tokio::task::yield_now().await;
            }
        };
        within(ready).await;
        for (peer, status) in [(LISTED, 200), (UNLISTED, 403)] {
            let client = Client::from(ip(peer));
            let reply = within(client.send(addr, "GET", "/verify", &[], b"")).await;
            assert_eq!(reply.unwrap().status, status, "{to}");
        }
        let client = Client::from(ip("127.0.0.1"));
        let reply = within(client.send(addr, "GET", "/status.json", &[], b"")).await;
        let status: Value = serde_json::from_str(&reply.unwrap().text()).unwrap();
        let dropped = status["log_lines_dropped"].as_u64().unwrap();
        assert_eq!(dropped > 0, drops, "{to}: {dropped}");
        terminate(&child).await;
        let ended = timeout(Duration::from_secs(5), child.wait()).await;
        assert_eq!(ended.expect("it ends").unwrap().code(), Some(0), "{to}");
    }
}

/// Returns the address at which a process listens. The address is found in the system's tables of sockets, since the
/// log cannot be read.
#[cfg(target_os = "linux")]
async fn listening_of(child: &Child) -> SocketAddr {
    let process = format!("/proc/{}", child.id().unwrap());
    let sockets = || {
        let files = std::fs::read_dir(format!("{process}/fd")).unwrap();
        let links = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
        links.collect::<Vec<_>>()
    };
    loop {
        let table = std::fs::read_to_string(format!("{process}/net/tcp")).unwrap();
        let sockets = sockets();
        let port = table.lines().find_map(|line| {
            // The first four fields are entry number, local address, remote address and state. The tenth is the inode
            // of the socket.
            let fields: Vec<_> = line.split_whitespace().collect();
            let link = format!("socket:[{}]", fields.get(9)?);
            let listens = fields[3] == "0A" && sockets.iter().any(|file| *file == *link);
            let (_, port) = fields[1].split_once(':')?;
            listens.then(|| u16::from_str_radix(port, 16).unwrap())
        });
        if let Some(port) = port {
            return (Ipv4Addr::LOCALHOST, port).into();
        }
        tokio::task::yield_now().await;
    }
}

/// Returns a pipe without room for another byte.
#[cfg(target_os = "linux")]
fn full_pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&[b'x'; 64 * 1024]).unwrap();
    (reader, writer)
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_server_that_cannot_start_ends_although_its_error_is_not_read() {
    let used = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = used.local_addr().unwrap();
    let (_reader, full) = full_pipe();
    let line = format!("serve --listen {addr} --host one.example --dns-server 127.0.0.1:9");
    let mut child = command(line.split_whitespace())
        .stderr(full)
        .spawn()
        .unwrap();
    let ended = timeout(Duration::from_secs(10), child.wait()).await;
    assert_eq!(ended.expect("it ends").unwrap().code(), Some(2));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_command_whose_messages_are_not_read_prints_its_data_and_ends_on_a_signal() {
    let dns = one_host().await;
    dns.set_fault("two.example", Fault::Drop);
    let (_reader, full) = full_pipe();
    let line = format!(
        "lookup --log debug --host two.example {}",
        admit_one_host(&dns)
    );
    let mut lookup = command(line.split_whitespace());
    let mut child = lookup.stdout(Stdio::piped()).stderr(full).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = within(stdout.next_line()).await.unwrap();
    assert_eq!(line.as_deref(), Some(LISTED));
    terminate(&child).await;
    let ended = timeout(Duration::from_secs(5), child.wait()).await;
    assert_eq!(ended.expect("it ends").unwrap().code(), None);
}

#[tokio::test]
async fn a_closed_pipe_causes_no_panic() {
    let dns = one_host().await;
    dns.set_fault(FaultScope::Everything, Fault::Drop);
    let folder = tempfile::tempdir().unwrap();
    let saved = folder.path().join("saved.http");
    std::fs::write(&saved, "POST / HTTP/1.1\r\nHost: shop.example\r\n\r\n{}").unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let lines = [
        format!("lookup --log debug {}", admit_one_host(&dns)),
        format!("lookup --log trace --json {}", admit_one_host(&dns)),
        format!("check --log debug 127.0.1.1 {}", admit_one_host(&dns)),
        format!(
            "verify --url https://shop.example/ --request {} --secret-file {}",
            saved.display(),
            secret.display()
        ),
        "completions bash".to_owned(),
        "serve --help".to_owned(),
        "serve --no-such-flag".to_owned(),
    ];
    let mut running = JoinSet::new();
    for line in lines {
        let (_, stdout) = std::io::pipe().unwrap();
        let (_, stderr) = std::io::pipe().unwrap();
        let mut command = command(line.split_whitespace());
        let mut child = command.stdout(stdout).stderr(stderr).spawn().unwrap();
        running.spawn(async move { (timeout(Duration::from_secs(20), child.wait()).await, line) });
    }
    while let Some(ended) = running.join_next().await {
        let (status, line) = ended.unwrap();
        let code = status.expect("it ends").unwrap().code();
        assert!(matches!(code, Some(0..=2)), "{line}: {code:?}");
    }
}

#[tokio::test]
async fn lists_in_a_json_log_are_arrays_and_numbers_are_numbers() {
    let dns = one_host().await;
    dns.set("one.example", 1, &[ip(LISTED), ip("127.0.1.2")]);
    let flags = "--log-format json --min-ttl 1s --host two.example";
    let server = Server::start(&format!("{flags} {}", admit_one_host(&dns))).await;
    server.has_logged("callback servers changed").await;
    dns.set("one.example", 1, &[ip(LISTED), ip("127.0.1.3")]);
    server.has_logged("127.0.1.3").await;
    assert_eq!(server.get(UNLISTED, "/verify").await.status, 403);
    server.has_logged("callback refused").await;
    server.has_logged("\"ready\"").await;
    let lines: Vec<Value> = server
        .log()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let event = |message: &str| {
        let is = |line: &&Value| line["message"] == message;
        lines.iter().find(is).unwrap_or_else(|| panic!("{message}"))
    };
    let changed = event("callback servers changed");
    assert_eq!(changed["added"], serde_json::json!([LISTED, "127.0.1.2"]));
    assert_eq!(changed["removed"], serde_json::json!([]));
    assert_eq!(changed["host"], "one.example");
    let refused = event("callback refused");
    assert_eq!(
        refused["hosts"],
        serde_json::json!(["two.example", "one.example"])
    );
    assert_eq!(refused["left_out"], 0);
    assert_eq!(refused["reason"], "not-listed");
    assert!(event("ready")["addresses"].is_u64());
    // Each line starts with its time, so that the lines can be sorted.
    assert!(
        server
            .log()
            .lines()
            .all(|line| line.starts_with("{\"timestamp\":\""))
    );
    server.stop().await;

    let flags = "--log-format json --host one.example";
    let server = Server::start(&format!("{flags} {}", ask(&dns))).await;
    server.has_logged("special-purpose").await;
    let log = server.log();
    let line = log.lines().find(|line| line.contains("special-purpose"));
    let line: Value = serde_json::from_str(line.unwrap()).unwrap();
    assert_eq!(line["addresses"], serde_json::json!([LISTED, "127.0.1.3"]));
    server.stop().await;
}

#[tokio::test]
async fn packets_from_a_third_address_cause_no_log_lines() {
    let dns = one_host().await;
    let way = NoisyWay::start(dns.addr()).await;
    let hosts = format!(
        "--host one.example --allow-special-addresses --dns-server {}",
        way.addr
    );
    let server = Server::start(&hosts).await;
    server.ready().await;
    let log = server.log();
    assert!(!log.contains("hickory"), "{log}");
    server.stop().await;

    for line in [
        format!("lookup {hosts}"),
        format!("check 127.0.1.1 {hosts}"),
    ] {
        let output = run(&line).await;
        assert_eq!(output.status.code(), Some(0), "{line}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "{line}");
    }

    // A log filter can enable hickory's lines about the packets.
    let output = run(&format!("lookup --log debug {hosts}")).await;
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(
        log.lines()
            .filter(|line| line.contains(" WARN hickory"))
            .count()
            >= PACKETS,
        "{log}"
    );
}

/// Forwarder of questions to a DNS server. Before each answer, it sends packets from a third address.
struct NoisyWay {
    addr: SocketAddr,
    _task: JoinSet<()>,
}

/// Number of packets before each answer. The receive buffer of a socket has room for more packets.
const PACKETS: usize = 100;

impl NoisyWay {
    async fn start(to: SocketAddr) -> Self {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = server.local_addr().unwrap();
        let third = UdpSocket::bind("127.0.9.9:0").await.unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut packet = [0; 4096];
            while let Ok((length, asker)) = server.recv_from(&mut packet).await {
                for _ in 0..PACKETS {
                    third.send_to(&[0; 12], asker).await.unwrap();
                }
                client.send_to(&packet[..length], to).await.unwrap();
                let length = client.recv(&mut packet).await.unwrap();
                server.send_to(&packet[..length], asker).await.unwrap();
            }
        });
        Self { addr, _task: task }
    }
}

#[tokio::test]
async fn pings_over_http2_cause_no_log_lines() {
    let dns = one_host().await;
    let server = Server::start(&admit_one_host(&dns)).await;
    server.ready().await;
    let frame = |kind: u8, flags: u8, payload: &[u8]| {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, 0], payload].concat()
    };
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, b""));
    for _ in 0..1_000 {
        bytes.extend(frame(6, 1, b"unasked."));
    }
    bytes.extend(frame(6, 0, b"the last"));
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut seen = Vec::new();
    while !seen.windows(8).any(|part| part == b"the last") {
        assert_ne!(within(stream.read_buf(&mut seen)).await.unwrap(), 0);
    }
    let log = server.log();
    assert!(!log.contains("PING"), "{log}");
    server.stop().await;
}
