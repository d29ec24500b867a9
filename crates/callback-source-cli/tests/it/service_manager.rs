//! `serve` under systemd: its messages, its watchdog, and sockets that systemd opens.

use std::{
    fs,
    net::TcpListener,
    os::{
        fd::OwnedFd,
        unix::net::{UnixDatagram, UnixListener},
    },
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use integration_tests::{
    http::{Client, Connection},
    servers::{find, on_free_port},
};
use tokio::{process::Command, task::JoinSet, time::timeout};

use crate::{
    server::Server,
    setup::{LISTED, admit_one_host, command, ip, one_host, shown},
};

/// Service manager that receives messages on a socket.
struct Manager {
    socket: UnixDatagram,
    folder: tempfile::TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        let limit = Some(Duration::from_secs(20));
        socket.set_read_timeout(limit).unwrap();
        Self { socket, folder }
    }

    fn environment(&self) -> Vec<(String, String)> {
        let path = self.folder.path().join("notify");
        vec![("NOTIFY_SOCKET".to_owned(), path.display().to_string())]
    }

    fn next(&self) -> String {
        let mut message = [0; 1024];
        let length = self.socket.recv(&mut message).expect("a message");
        String::from_utf8(message[..length].to_vec()).expect("text")
    }

    /// Receives messages up to the first message that contains a text.
    fn until(&self, text: &str) -> Vec<String> {
        let mut messages = vec![self.next()];
        while !messages.last().expect("one").contains(text) {
            messages.push(self.next());
        }
        messages
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_the_start_readiness_and_the_stop_to_the_service_manager() {
    let dns = one_host().await;
    let manager = Manager::new();
    let args = format!("{} --stop-delay 1m", admit_one_host(&dns));
    let mut server = Server::start_with(&args, manager.environment()).await;
    let messages = manager.until("1 addresses are admitted");
    assert_eq!(messages[0], "READY=1\n");
    assert_eq!(messages[1], "STATUS=waiting for the first answers\n");
    server.signal("TERM").await;
    // The `--stop-delay`, plus 10 s for requests, 2 s for the journal and 3 s for the state file.
    assert_eq!(manager.next(), "STOPPING=1\nEXTEND_TIMEOUT_USEC=75000000\n");
    server.signal("TERM").await;
    assert_eq!(server.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_that_it_listens_while_dns_is_silent() {
    let dns = one_host().await;
    dns.set_fault(
        integration_tests::dns::FaultScope::Everything,
        integration_tests::dns::Fault::Drop,
    );
    let manager = Manager::new();
    let server = Server::start_with(&admit_one_host(&dns), manager.environment()).await;
    assert_eq!(manager.next(), "READY=1\n");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_the_start_and_the_end_of_a_reload_with_and_without_a_valid_file() {
    let dns = one_host().await;
    let manager = Manager::new();
    let file = manager.folder.path().join("config.toml");
    fs::write(&file, "report-only = true\n").unwrap();
    let args = format!("{} --config {}", admit_one_host(&dns), file.display());
    let server = Server::start_with(&args, manager.environment()).await;
    manager.until("1 addresses are admitted");
    for content in ["report-only = false\n", "report-only = 7\n"] {
        fs::write(&file, content).unwrap();
        server.signal("HUP").await;
        let message = manager.next();
        let time = message.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
        let time: u64 = time.expect(&message).trim().parse().unwrap();
        assert!(time > 0);
        assert_eq!(manager.next(), "READY=1\n");
    }
    server.has_logged("not reloaded").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_watchdog_alive() {
    let dns = one_host().await;
    let manager = Manager::new();
    let mut environment = manager.environment();
    environment.push(("WATCHDOG_USEC".to_owned(), "100000".to_owned()));
    let server = Server::start_with(&admit_one_host(&dns), environment).await;
    for _ in 0..3 {
        manager.until("WATCHDOG=1");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_manager_that_reads_nothing_does_not_stop_the_server() {
    let dns = one_host().await;
    let manager = Manager::new();
    let mut environment = manager.environment();
    environment.push(("WATCHDOG_USEC".to_owned(), "2000".to_owned()));
    let server = Server::start_with(&admit_one_host(&dns), environment).await;
    server.ready().await;
    // After this many requests, the queue of the socket and the queue of the server are full.
    for _ in 0..200 {
        assert_eq!(server.get(LISTED, "/verify").await.status, 200);
    }
    server.stop().await;
}

/// Creates the command, and passes sockets to it as systemd does. A shell receives the sockets as its standard streams.
fn activated(sockets: impl IntoIterator<Item = OwnedFd>, args: &str) -> Command {
    let mut sockets = sockets.into_iter();
    let (first, second) = (sockets.next().expect("a socket"), sockets.next());
    let serve = command(args.split_whitespace());
    let serve = serve.as_std();
    let mut shell = Command::new("sh");
    shell.env_clear().kill_on_drop(true);
    let number = if second.is_some() { 2 } else { 1 };
    shell.arg("-c").arg(format!(
        "export LISTEN_FDS={number} LISTEN_PID=$$; exec \"$@\" 3<&0 4<&1 </dev/null >/dev/null"
    ));
    shell
        .arg("sh")
        .arg(serve.get_program())
        .args(serve.get_args());
    shell.stdin(first);
    match second {
        Some(second) => shell.stdout(second),
        None => shell.stdout(Stdio::null()),
    };
    shell
}

fn tcp() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

/// Returns a copy of a socket, as the service manager passes it.
fn passed(socket: &TcpListener) -> OwnedFd {
    socket.try_clone().unwrap().into()
}

#[tokio::test]
async fn sockets_of_the_service_manager_serve_the_flags_with_their_addresses() {
    let dns = one_host().await;
    let (listen, admin) = (tcp(), tcp());
    let (at, admin_at) = (listen.local_addr().unwrap(), admin.local_addr().unwrap());
    // The order of the sockets differs from the order of the flags.
    let serve = activated(
        [passed(&admin), passed(&listen)],
        &format!(
            "serve --listen {at} --admin-listen {admin_at} --stop-delay 0s {}",
            admit_one_host(&dns)
        ),
    );
    let server = Server::of_command(serve, true).await;
    server.ready().await;
    assert_eq!((server.addr, server.admin), (at, Some(admin_at)));
    assert_eq!(server.get(LISTED, "/verify").await.status, 200);
    let client = Client::from(ip(LISTED));
    let reply = client.send(admin_at, "GET", "/readyz", &[], b"").await;
    assert_eq!(reply.unwrap().status, 200);
    server.stop().await;
}

#[tokio::test]
async fn a_unix_socket_of_the_service_manager_is_used_and_not_removed() {
    let dns = one_host().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("verify.sock");
    let socket = UnixListener::bind(&path).unwrap();
    let serve = activated(
        [socket.try_clone().unwrap().into()],
        &format!(
            "serve --listen unix:{} --client-ip-header x-real-ip --admin-listen 127.0.0.1:0 \
             --stop-delay 0s {}",
            path.display(),
            admit_one_host(&dns)
        ),
    );
    let server = Server::of_command(serve, false).await;
    server.ready().await;
    assert_eq!(verify_at(&path).await, "HTTP/1.1 200 OK");
    server.stop().await;
    assert!(path.exists());
}

/// Sends a request for `/verify` through a Unix socket. Returns the status line.
async fn verify_at(path: &Path) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let mut stream = tokio::net::UnixStream::connect(path).await.unwrap();
    let request = format!(
        "GET /verify HTTP/1.1\r\nHost: a\r\nX-Real-IP: {LISTED}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    reply.lines().next().unwrap_or_default().to_owned()
}

/// Returns the output of `serve` on a free port when the service manager passes this file.
async fn failure(file: OwnedFd) -> String {
    let mut serve = activated([file], "serve --listen 127.0.0.1:0");
    let output = timeout(Duration::from_secs(20), serve.output()).await;
    shown(&output.expect("it ends").unwrap())
}

#[tokio::test]
async fn a_socket_that_no_flag_names_is_an_error() {
    let socket = tcp();
    let output = failure(passed(&socket)).await;
    let address = socket.local_addr().unwrap();
    let text = format!("the service manager passed a socket of {address}, and no flag names");
    assert!(
        output.starts_with("exit 2") && output.contains(&text),
        "{output}"
    );
    assert!(output.contains("hint: give it with `--listen`"), "{output}");
}

#[tokio::test]
async fn a_passed_file_that_is_not_a_listening_socket_is_an_error() {
    let connected = std::net::TcpStream::connect(tcp().local_addr().unwrap());
    let datagrams = UnixDatagram::unbound().unwrap();
    for file in [
        connected.unwrap().into(),
        datagrams.into(),
        fs::File::open("/dev/null").unwrap().into(),
    ] {
        let output = failure(file).await;
        let text = "socket 1 of the service manager is not a listening TCP or Unix stream socket";
        assert!(
            output.starts_with("exit 2") && output.contains(text),
            "{output}"
        );
    }
}

#[tokio::test]
async fn sockets_for_another_process_are_ignored() {
    let dns = one_host().await;
    let environment = [("LISTEN_FDS", "1"), ("LISTEN_PID", "1")];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let server = Server::start_with(&admit_one_host(&dns), environment).await;
    server.ready().await;
    server.stop().await;
}

#[tokio::test]
async fn systemd_socket_activate_starts_the_server_with_the_first_callback() {
    let Some([activate]) = find(["systemd-socket-activate"]) else {
        return;
    };
    let dns = one_host().await;
    let reply = on_free_port(ip("127.0.0.1"), async |at| {
        let line = format!("serve --listen {at} {}", admit_one_host(&dns));
        let serve = command(line.split_whitespace());
        let serve = serve.as_std();
        let mut activated = Command::new(&activate);
        activated
            .env_clear()
            .kill_on_drop(true)
            .arg("--listen")
            .arg(at.to_string());
        activated.arg(serve.get_program()).args(serve.get_args());
        let _activated = activated.stderr(Stdio::null()).spawn()?;
        let connect = async {
            loop {
                match Connection::connect(ip(LISTED), at).await {
                    Ok(connection) => break connection,
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        let mut connection = timeout(Duration::from_secs(20), connect).await?;
        connection.send("GET", "/verify", &[], b"").await
    });
    assert_eq!(reply.await.unwrap().status, 200);
}

/// Number of requests in [`an_upgrade_under_load_loses_no_request`], and the number of restarts during these requests.
const REQUESTS: usize = 10_000;
const RESTARTS: usize = 5;

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_under_load_loses_no_request() {
    let requests = std::env::var("UPGRADE_REQUESTS");
    let requests = requests.map_or(REQUESTS, |number| number.parse().unwrap());
    let dns = one_host().await;
    let folder = tempfile::tempdir().unwrap();
    let socket = tcp();
    let at = socket.local_addr().unwrap();
    // A new process reads the callback servers from the state file.
    let args = format!(
        "serve --listen {at} --stop-delay 0s --state-file {} {}",
        folder.path().join("state.json").display(),
        admit_one_host(&dns)
    );
    let start = async || {
        let server = Server::of_command(activated([passed(&socket)], &args), false).await;
        server.ready().await;
        server
    };
    let mut server = start().await;

    let answered = Arc::new(AtomicUsize::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let mut load = JoinSet::new();
    for kept in [false, false, true, true] {
        let (answered, done) = (Arc::clone(&answered), Arc::clone(&done));
        load.spawn(async move {
            let mut connection = None;
            while !done.load(Ordering::Relaxed) {
                let mut open = match connection.take() {
                    Some(open) => open,
                    None => Connection::connect(ip(LISTED), at).await.unwrap(),
                };
                let reply = open.send("POST", "/verify", &[], b"{}").await;
                let reply = reply.expect("a reply to each request");
                assert_eq!(reply.status, 200, "{}", reply.text());
                answered.fetch_add(1, Ordering::Relaxed);
                // Like a proxy, the client keeps a connection until the server announces the end of the connection.
                if kept && reply.header("connection") != Some("close") {
                    connection = Some(open);
                }
            }
        });
    }
    for restart in 1..=RESTARTS {
        while answered.load(Ordering::Relaxed) < requests * restart / (RESTARTS + 1) {
            tokio::select! {
                failed = load.join_next() => panic!("{failed:?}"),
                () = tokio::time::sleep(Duration::from_millis(1)) => {}
            }
        }
        // As with `systemctl restart`, the old process ends before the new process starts.
        server.stop().await;
        server = start().await;
    }
    while answered.load(Ordering::Relaxed) < requests {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    done.store(true, Ordering::Relaxed);
    while let Some(client) = load.join_next().await {
        client.unwrap();
    }
    server.stop().await;
}
