//! Network namespaces for one test: one for a server with a firewall, and one for a client with many addresses.
//!
//! Only documentation addresses are used, and only inside the namespaces. Without root, a test is skipped, like a test
//! whose server is not installed.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    path::Path,
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::servers;

/// A namespace. It is removed when this value is dropped.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

/// The address of the server's namespace.
pub const SERVER: &str = "203.0.113.1";

/// The IPv6 address of the server's namespace.
pub const SERVER6: &str = "2001:db8::1";

/// Creates two connected namespaces: one for the server, and one for the clients with these addresses. Returns `None`
/// if the test must be skipped.
///
/// # Panics
///
/// If `ip` fails although namespaces can be created, or if the test would be skipped although servers are required.
#[must_use]
pub fn connected(clients: &[&str]) -> Option<(Netns, Netns)> {
    servers::find(["ip", "nft"])?;
    let (Some(server), Some(client)) = (Netns::new(), Netns::new()) else {
        servers::skip("network namespaces need root");
        return None;
    };
    ip(&format!(
        "link add s0 netns {server} type veth peer name c0 netns {client}"
    ));
    for (netns, link) in [(&server, "s0"), (&client, "c0")] {
        ip(&format!("-n {netns} link set lo up"));
        ip(&format!("-n {netns} link set {link} up"));
    }
    for address in [SERVER, SERVER6] {
        server.add_address("s0", address);
    }
    for address in clients {
        client.add_address("c0", address);
    }
    Some((server, client))
}

impl Netns {
    fn new() -> Option<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("callbacks-{}-{number}", std::process::id());
        let made = Command::new("ip").args(["netns", "add", &name]).output();
        made.is_ok_and(|made| made.status.success())
            .then_some(Self { name })
    }

    fn add_address(&self, link: &str, address: &str) {
        // Without `nodad`, an IPv6 address is not usable during its first second.
        let (length, flag) = match address.contains(':') {
            true => (64, "nodad"),
            false => (24, ""),
        };
        ip(&format!(
            "-n {self} addr add {address}/{length} dev {link} {flag}"
        ));
    }

    /// Runs a closure in the namespace. Sockets that the closure creates, and processes that it starts, stay in the
    /// namespace.
    ///
    /// # Panics
    ///
    /// If the namespace cannot be entered, or the closure panics.
    pub fn within<T: Send>(&self, run: impl FnOnce() -> T + Send) -> T {
        let path = Path::new("/run/netns").join(&self.name);
        let enter = || {
            let netns = File::open(&path)?;
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok::<_, io::Error>(())
        };
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                enter().expect("the namespace can be entered");
                run()
            });
            thread.join().expect("the closure does not panic")
        })
    }

    /// Runs `nft` in the namespace with this ruleset.
    ///
    /// # Panics
    ///
    /// If `nft` fails.
    pub fn load(&self, ruleset: &str) {
        let child = self
            .command("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.expect("`ip` is installed");
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(ruleset.as_bytes()).expect("it reads");
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{}", text(&output.stderr));
    }

    /// Returns the output of `nft` in the namespace with these arguments.
    ///
    /// # Panics
    ///
    /// If `nft` fails.
    #[must_use]
    pub fn nft(&self, arguments: &str) -> String {
        let output = self.try_nft(arguments);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Runs `nft` in the namespace with these arguments.
    ///
    /// # Panics
    ///
    /// If `ip`, which starts `nft`, cannot be started.
    #[must_use]
    pub fn try_nft(&self, arguments: &str) -> Output {
        let output = self
            .command("nft")
            .args(arguments.split_whitespace())
            .output();
        output.expect("`ip` is installed")
    }

    /// Puts a program `nft` into a folder. The program runs the real `nft` in the namespace. A process that has this
    /// folder in its `PATH` can therefore run outside of the namespace, together with the DNS server of the test.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn wrap_nft(&self, folder: &Path) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt;

        let [ip, nft] = servers::find(["ip", "nft"]).expect("both were found before");
        let (ip, nft) = (ip.display(), nft.display());
        let script = format!("#!/bin/sh\nexec {ip} netns exec {self} {nft} \"$@\"\n");
        let path = folder.join("nft");
        std::fs::write(&path, script)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }
}

impl std::fmt::Display for Netns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .output();
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .expect("`ip` is installed");
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        text(&output.stderr)
    );
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

static NEXT: AtomicU16 = AtomicU16::new(0);
