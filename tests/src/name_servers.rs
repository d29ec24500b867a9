//! Real DNS servers that serve the zone of the provider's real names. [`Knot`] and [`Nsd`] are authoritative, and
//! [`Unbound`] is the recursive resolver in front of an authoritative server.
//!
//! If a program is not installed, `start` returns `None`, and the test is [skipped](servers).

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{task, time::sleep};

use crate::{
    servers::{self, Server},
    within,
};

/// The zone of the provider's servers.
pub const ZONE: &str = "vipps.no";

/// An authoritative server whose zone is changed by dynamic updates (RFC 2136).
#[derive(Debug)]
pub struct Knot {
    programs: [PathBuf; 3],
    dir: TempDir,
    addr: SocketAddr,
    server: Option<Server>,
}

impl Knot {
    /// Starts the server with these records, each a line of a zone file relative to the [zone](ZONE).
    ///
    /// # Errors
    ///
    /// If the server does not start.
    pub async fn start(records: &str) -> io::Result<Option<Self>> {
        let Some(programs) = servers::find(["knotd", "nsupdate", "dig"]) else {
            return Ok(None);
        };
        let start = async |addr| Self::start_at(addr, programs.clone(), records).await;
        let knot = servers::on_free_port(LOCALHOST, start).await?;
        Ok(Some(knot))
    }

    async fn start_at(addr: SocketAddr, programs: [PathBuf; 3], records: &str) -> io::Result<Self> {
        let dir = TempDir::new()?;
        let root = dir.path().display();
        fs::create_dir(dir.path().join("run"))?;
        fs::create_dir(dir.path().join("db"))?;
        fs::write(dir.path().join("vipps.no.zone"), zone(records, 1))?;
        let server = format!(
            r#"
server:
    rundir: "{root}/run"
    listen: {}@{}
database:
    storage: "{root}/db"
log:
  - target: stderr
    any: warning
"#,
            addr.ip(),
            addr.port()
        );
        let zone = format!(
            r#"
key:
  - id: ddns
    algorithm: hmac-sha256
    secret: {SECRET}
acl:
  - id: update
    address: 127.0.0.1
    key: ddns
    action: update
template:
  - id: default
    storage: "{root}"
    file: "%s.zone"
    zonefile-sync: -1
    zonefile-load: difference-no-serial
    journal-content: all
zone:
  - domain: {ZONE}
    acl: update
"#
        );
        fs::write(dir.path().join("knot.conf"), format!("{server}{zone}"))?;
        fs::write(dir.path().join("empty.conf"), server)?;
        let mut knot = Self {
            programs,
            dir,
            addr,
            server: None,
        };
        knot.run("knot.conf").await?;
        knot.answers().await;
        Ok(knot)
    }

    /// The address at which the server listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Changes the zone with these commands of `nsupdate`, in one update.
    ///
    /// # Errors
    ///
    /// If the server refuses the update.
    pub async fn update(&self, commands: &str) -> io::Result<()> {
        let (ip, port) = (self.addr.ip(), self.addr.port());
        let script = format!("server {ip} {port}\nzone {ZONE}\n{commands}\nsend\n");
        let path = self.dir.path().join("update");
        fs::write(&path, script)?;
        let key = format!("hmac-sha256:ddns:{SECRET}");
        let mut nsupdate = Command::new(&self.programs[1]);
        nsupdate.arg("-y").arg(key).arg(path);
        output(nsupdate).await.map(drop)
    }

    /// Kills the server, which closes its port.
    pub fn stop(&mut self) {
        self.server = None;
    }

    /// Starts the server again with its latest zone.
    ///
    /// # Errors
    ///
    /// If the server does not start.
    pub async fn restart(&mut self) -> io::Result<()> {
        self.stop();
        self.run("knot.conf").await?;
        self.answers().await;
        Ok(())
    }

    /// Starts the server again without its zone, so that it refuses all questions (REFUSED).
    ///
    /// # Errors
    ///
    /// If the server does not start.
    pub async fn restart_without_zone(&mut self) -> io::Result<()> {
        self.stop();
        self.run("empty.conf").await
    }

    async fn run(&mut self, config: &str) -> io::Result<()> {
        let config = self.dir.path().join(config);
        let mut server = Server::start(
            &self.programs[0],
            &[Path::new("-c"), &config],
            TempDir::new()?,
        )?;
        server.ready(self.addr).await?;
        self.server = Some(server);
        Ok(())
    }

    async fn answers(&self) {
        answers(&self.programs[2], self.addr).await;
    }
}

/// An authoritative server whose zone is changed through its file.
#[derive(Debug)]
pub struct Nsd {
    control: PathBuf,
    addr: SocketAddr,
    server: Server,
    serial: u32,
}

impl Nsd {
    /// Starts the server with these records, each a line of a zone file relative to the [zone](ZONE).
    ///
    /// # Errors
    ///
    /// If the server does not start.
    pub async fn start(records: &str) -> io::Result<Option<Self>> {
        let Some(programs) = servers::find(["nsd", "nsd-control", "dig"]) else {
            return Ok(None);
        };
        let start = async |addr| Self::start_at(addr, &programs, records).await;
        let nsd = servers::on_free_port(LOCALHOST, start).await?;
        Ok(Some(nsd))
    }

    async fn start_at(
        addr: SocketAddr,
        [nsd, control, dig]: &[PathBuf; 3],
        records: &str,
    ) -> io::Result<Self> {
        let dir = TempDir::new()?;
        let root = dir.path().display();
        fs::write(dir.path().join("vipps.no.zone"), zone(records, 1))?;
        let config = format!(
            r#"
server:
  ip-address: {}@{}
  server-count: 1
  username: ""
  zonesdir: "{root}"
  database: ""
  pidfile: "{root}/nsd.pid"
  zonelistfile: "{root}/zone.list"
  xfrdfile: "{root}/xfrd.state"
  xfrdir: "{root}"
remote-control:
  control-enable: yes
  control-interface: {root}/control
zone:
  name: {ZONE}
  zonefile: vipps.no.zone
"#,
            addr.ip(),
            addr.port()
        );
        fs::write(dir.path().join("nsd.conf"), config)?;
        let mut server = Server::start(nsd, &["-d", "-c", "nsd.conf"], dir)?;
        server.ready(addr).await?;
        answers(dig, addr).await;
        Ok(Self {
            control: control.clone(),
            addr,
            server,
            serial: 1,
        })
    }

    /// The address at which the server listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Replaces the records.
    ///
    /// # Errors
    ///
    /// If the server rejects the records.
    pub async fn replace(&mut self, records: &str) -> io::Result<()> {
        self.serial += 1;
        let dir = self.server.dir();
        fs::write(dir.join("vipps.no.zone"), zone(records, self.serial))?;
        let mut control = Command::new(&self.control);
        control.arg("-c").arg(dir.join("nsd.conf")).arg("reload");
        output(control).await.map(drop)
    }
}

/// A recursive resolver that asks an authoritative server about the [zone](ZONE).
#[derive(Debug)]
pub struct Unbound {
    program: PathBuf,
    config: String,
    addr: SocketAddr,
    server: Option<Server>,
}

impl Unbound {
    /// Starts the resolver in front of an authoritative server.
    ///
    /// # Errors
    ///
    /// If the resolver does not start.
    pub async fn start(authority: SocketAddr) -> io::Result<Option<Self>> {
        let start = async |addr| Self::start_at(addr, authority, "").await;
        servers::on_free_port(LOCALHOST, start).await
    }

    /// Starts a resolver at this address that responds with SERVFAIL, because it expects DNSSEC signatures that the
    /// zone lacks.
    ///
    /// # Errors
    ///
    /// If the resolver does not start.
    pub async fn start_failing(
        addr: SocketAddr,
        authority: SocketAddr,
    ) -> io::Result<Option<Self>> {
        let digest = "0".repeat(64);
        let anchor = format!("trust-anchor: \"{ZONE}. DS 12345 13 2 {digest}\"");
        Self::start_at(addr, authority, &anchor).await
    }

    /// Starts a resolver that listens on TCP only, in front of an authoritative server.
    ///
    /// # Errors
    ///
    /// If the resolver does not start.
    pub async fn start_over_tcp(authority: SocketAddr) -> io::Result<Option<Self>> {
        let option = "do-udp: no\n  udp-upstream-without-downstream: yes";
        let start = async |addr| Self::start_at(addr, authority, option).await;
        servers::on_free_port(LOCALHOST, start).await
    }

    async fn start_at(
        addr: SocketAddr,
        authority: SocketAddr,
        option: &str,
    ) -> io::Result<Option<Self>> {
        let Some([program, _]) = servers::find(["unbound", "dig"]) else {
            return Ok(None);
        };
        // By default, unbound does not ask an authoritative server for several minutes after the server was silent.
        let config = format!(
            r#"
server:
  interface: {ip}@{port}
  port: {port}
  do-daemonize: no
  chroot: ""
  username: ""
  directory: "."
  pidfile: "unbound.pid"
  use-syslog: no
  logfile: ""
  do-not-query-localhost: no
  do-ip6: no
  module-config: "validator iterator"
  root-hints: ""
  access-control: 127.0.0.0/8 allow
  infra-host-ttl: 1
  serve-expired: no
  {option}
stub-zone:
  name: "{ZONE}"
  stub-addr: {authority_ip}@{authority_port}
remote-control:
  control-enable: no
"#,
            ip = addr.ip(),
            port = addr.port(),
            authority_ip = authority.ip(),
            authority_port = authority.port(),
        );
        let mut unbound = Self {
            program,
            config,
            addr,
            server: None,
        };
        unbound.restart().await?;
        Ok(Some(unbound))
    }

    /// The address at which the resolver listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Kills the resolver, which closes its port.
    pub fn stop(&mut self) {
        self.server = None;
    }

    /// Starts the resolver again with an empty cache.
    ///
    /// # Errors
    ///
    /// If the resolver does not start.
    pub async fn restart(&mut self) -> io::Result<()> {
        self.stop();
        let dir = TempDir::new()?;
        fs::write(dir.path().join("unbound.conf"), &self.config)?;
        let mut server = Server::start(&self.program, &["-d", "-c", "unbound.conf"], dir)?;
        server.ready(self.addr).await?;
        self.server = Some(server);
        Ok(())
    }
}

/// Returns the output of `dig` for a question to this server.
///
/// # Errors
///
/// If the server does not answer.
///
/// # Panics
///
/// If `dig` is not installed, which `start` of each server has checked.
pub async fn dig(server: SocketAddr, arguments: &[&str]) -> io::Result<String> {
    let [program] = servers::find(["dig"]).expect("`start` of the server has found it");
    dig_with(&program, server, arguments).await
}

/// Returns the addresses that `dig` finds for these names in both families, sorted and without duplicates.
///
/// # Errors
///
/// As for [`dig`].
///
/// # Panics
///
/// As for [`dig`].
pub async fn dig_addresses(
    server: SocketAddr,
    names: impl IntoIterator<Item = &str>,
) -> io::Result<Vec<IpAddr>> {
    let mut addresses = Vec::new();
    for name in names {
        for family in ["A", "AAAA"] {
            let lines = dig(server, &["+short", name, family]).await?;
            // The output also contains the names of aliases.
            addresses.extend(lines.lines().filter_map(|line| line.parse::<IpAddr>().ok()));
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

async fn dig_with(program: &Path, server: SocketAddr, arguments: &[&str]) -> io::Result<String> {
    let mut dig = Command::new(program);
    dig.arg("-r")
        .arg(format!("@{}", server.ip()))
        .args(["-p", &server.port().to_string(), "+tries=1", "+time=2"])
        .args(arguments);
    output(dig).await
}

/// Waits until a server answers for the zone. The server may accept connections earlier.
async fn answers(dig: &Path, server: SocketAddr) {
    within(async {
        loop {
            let soa = dig_with(dig, server, &["+short", ZONE, "SOA"]).await;
            if soa.is_ok_and(|soa| soa.contains("hostmaster")) {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

async fn output(mut command: Command) -> io::Result<String> {
    let output = task::spawn_blocking(move || command.output()).await??;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    Err(io::Error::other(format!("{stdout}{stderr}")))
}

fn zone(records: &str, serial: u32) -> String {
    format!(
        "$ORIGIN {ZONE}.\n$TTL 1\n@ SOA ns1 hostmaster {serial} 300 60 86400 1\n@ NS ns1\nns1 A \
         127.0.0.1\n{records}\n"
    )
}

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const SECRET: &str = "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0MTI=";
