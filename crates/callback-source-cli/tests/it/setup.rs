//! The command, DNS zones, and connections that several tests use.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    process::Output,
};

use integration_tests::dns::DnsServer;
use tokio::{
    net::{TcpSocket, TcpStream},
    process::Command,
};

/// Address of this machine that the host of [`one_host`] has.
pub(crate) const LISTED: &str = "127.0.1.1";

/// Address of this machine that no zone contains.
pub(crate) const UNLISTED: &str = "127.0.2.1";

/// Creates the command with these arguments and an empty environment.
pub(crate) fn command<S: AsRef<str>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_callback-source"));
    command.env_clear().kill_on_drop(true);
    command.args(args.into_iter().map(|arg| arg.as_ref().to_owned()));
    command
}

/// Runs the command with a line of arguments, split at spaces.
pub(crate) async fn run(line: &str) -> Output {
    let output = command(line.split_whitespace()).output().await;
    output.expect("the command can be started")
}

/// Returns the exit code and the output of the command.
pub(crate) fn shown(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let code = output.status.code().expect("it was not killed");
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    format!("exit {code}\n-- stdout\n{stdout}-- stderr\n{stderr}")
}

/// Compares the exit code and the output with an inline snapshot.
macro_rules! assert_shown {
    ($output:expr, @$snapshot:literal) => {{
        let mut settings = insta::Settings::clone_current();
        settings.add_filter(r"127\.0\.0\.1:\d+", "[SERVER]");
        settings.add_filter(r"\d{4}-\d\d-\d\dT[0-9:.]+Z", "[TIME]");
        let shown = $crate::setup::shown(&$output);
        settings.bind(|| insta::assert_snapshot!(shown, @$snapshot));
    }};
}
pub(crate) use assert_shown;

/// Starts a DNS server with three hosts: one with two IPv4 addresses, one with an address of each family, and an
/// alias of the first host.
pub(crate) async fn zone() -> DnsServer {
    let dns = DnsServer::start().await.expect("a free port");
    dns.set("one.example", 60, &[ip("104.45.28.230"), ip("9.45.17.199")]);
    dns.set(
        "two.example",
        300,
        &[ip("2a01:111::7"), ip("52.232.113.216")],
    );
    dns.set_cname("three.example", 20, "one.example");
    dns
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Returns the flag `--dns-server` with its value.
pub(crate) fn ask(dns: &DnsServer) -> String {
    let server: SocketAddr = dns.addr();
    format!("--dns-server {server}")
}

/// Starts a DNS server with one host at an address of this machine.
pub(crate) async fn one_host() -> DnsServer {
    let dns = DnsServer::start().await.expect("a free port");
    dns.set("one.example", 60, &[ip(LISTED)]);
    dns
}

/// Returns the flags that admit the host of [`one_host`].
pub(crate) fn admit_one_host(dns: &DnsServer) -> String {
    format!("--host one.example --allow-special-addresses {}", ask(dns))
}

/// Connects from an address of this machine.
pub(crate) async fn connect(peer: &str, server: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(ip(peer), 0))?;
    socket.connect(server).await
}
