//! `serve` as a process.

use std::{
    net::{IpAddr, SocketAddr},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use integration_tests::http::{Client, Connection, Reply};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
    process::{Child, ChildStderr, Command},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};

use crate::setup::{admit_one_host, command, connect, ip, one_host};

/// A running server. Its process is killed when this value is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) addr: SocketAddr,
    pub(crate) admin: Option<SocketAddr>,
    log: Arc<Mutex<Vec<String>>>,
    logged: watch::Receiver<()>,
    reader: JoinHandle<()>,
}

impl Server {
    /// Starts `serve` with one host and waits until the server is ready. The DNS server stops when this function
    /// returns.
    pub(crate) async fn admitting_one_host(args: &str) -> Self {
        let dns = one_host().await;
        let server = Self::start(&format!("{} {args}", admit_one_host(&dns))).await;
        server.ready().await;
        server
    }

    /// Starts `serve` on a free port, and waits until it listens. If the server listens on a Unix socket, `addr` is the
    /// address of the admin listener.
    pub(crate) async fn start(args: &str) -> Self {
        Self::start_with(args, []).await
    }

    /// Starts `serve` like [`start`](Self::start), with environment variables.
    pub(crate) async fn start_with(
        args: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        let at_socket = args.contains("--listen unix:");
        let delay = match args.contains("--stop-delay") {
            true => "",
            false => "--stop-delay 0s",
        };
        let line = match at_socket {
            true => format!("serve {delay} {args}"),
            false => format!("serve --listen 127.0.0.1:0 {delay} {args}"),
        };
        let mut serve = command(line.split_whitespace());
        serve.envs(variables);
        Self::of_command(serve, args.contains("--admin-listen") && !at_socket).await
    }

    /// Starts `follow`. `addr` is the address of its admin listener.
    pub(crate) async fn follow(args: &str) -> Self {
        let line = format!("follow --admin-listen 127.0.0.1:0 {args}");
        Self::of_command(command(line.split_whitespace()), false).await
    }

    /// Starts a command, and waits until it listens. With `has_admin`, also waits for its admin listener.
    pub(crate) async fn of_command(mut command: Command, has_admin: bool) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("it starts");
        let stderr = child.stderr.take().expect("a pipe");
        let mut lines = BufReader::new(stderr).lines();
        let log = Arc::<Mutex<Vec<String>>>::default();
        let addr = listening(&mut lines, &log).await;
        let admin = match has_admin {
            true => Some(listening(&mut lines, &log).await),
            false => None,
        };

        let (sender, logged) = watch::channel(());
        let to = Arc::clone(&log);
        let reader = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                to.lock().unwrap().push(line);
                sender.send_replace(());
            }
        });
        Self {
            child,
            addr,
            admin,
            log,
            logged,
            reader,
        }
    }

    /// Stops reading the server's log, and closes the pipe.
    pub(crate) fn unread(self) -> Self {
        self.reader.abort();
        self
    }

    pub(crate) async fn ready(&self) {
        self.has_logged("ready").await;
    }

    /// Waits for a log line that contains a text.
    pub(crate) async fn has_logged(&self, text: &str) {
        self.has_logged_times(text, 1).await;
    }

    /// Waits until this many log lines contain a text.
    pub(crate) async fn has_logged_times(&self, text: &str, times: usize) {
        let mut logged = self.logged.clone();
        let wait = async {
            while self.log().matches(text).count() < times {
                logged.changed().await.expect("the server runs");
            }
        };
        let in_time = timeout(Duration::from_secs(20), wait).await;
        assert!(in_time.is_ok(), "no `{text}` in {}", self.log());
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    pub(crate) async fn get(&self, peer: &str, path: &str) -> Reply {
        self.send(peer, "GET", path, &[]).await
    }

    pub(crate) async fn send(
        &self,
        peer: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Reply {
        let client = Client::from(ip(peer));
        let reply = client.send(self.addr, method, path, headers, b"").await;
        reply.expect("a reply")
    }

    pub(crate) async fn connect(&self, peer: &str) -> Connection {
        let peer: IpAddr = ip(peer);
        Connection::connect(peer, self.addr)
            .await
            .expect("a connection")
    }

    pub(crate) async fn stream(&self, peer: &str) -> TcpStream {
        connect(peer, self.addr).await.expect("a connection")
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    pub(crate) async fn signal(&self, name: &str) {
        let id = self.child.id().expect("it runs").to_string();
        let mut kill = Command::new("kill");
        let sent = kill.args(["-s", name, &id]).status().await;
        assert!(sent.expect("`kill` is there").success());
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let ended = timeout(Duration::from_secs(20), self.child.wait()).await;
        ended.expect("it ends").expect("it can be waited for")
    }

    /// Stops the server, and asserts that it ended without an error.
    pub(crate) async fn stop(mut self) {
        self.signal("TERM").await;
        let status = self.ended().await;
        assert_eq!(status.code(), Some(0), "{}", self.log());
        assert!(!self.log().contains("panicked"), "{}", self.log());
    }

    /// Returns the resident memory of the server in KiB.
    #[cfg(target_os = "linux")]
    pub(crate) fn memory(&self) -> u64 {
        let id = self.child.id().expect("it runs");
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("it runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let size = line.and_then(|line| line.split_whitespace().nth(1));
        size.and_then(|size| size.parse().ok()).expect("a size")
    }
}

/// Reads the log up to the line with the address of a listener, and returns the address.
pub(crate) async fn listening(
    lines: &mut tokio::io::Lines<BufReader<ChildStderr>>,
    log: &Mutex<Vec<String>>,
) -> SocketAddr {
    loop {
        let line = lines.next_line().await.expect("text");
        let line = line.expect("it logs its address");
        // DNS answers may be logged before the line with the address.
        log.lock().unwrap().push(line.clone());
        if let Some((_, rest)) = line.split_once("listening on http://") {
            let address = rest.split(['"', ' ']).next().unwrap_or(rest);
            return address.parse().expect("an address");
        }
    }
}
