//! Real servers, started for one test on loopback.
//!
//! A test that needs one that is not installed is skipped, with a line on standard error; with
//! `CALLBACK_SOURCE_REQUIRE_SERVERS=1` it fails.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    io::{self, Write},
    net::{IpAddr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{net::TcpStream, time};

/// The paths of programs, or `None` when one is missing and the test is to be skipped.
///
/// # Panics
///
/// If one is missing, and servers are required.
#[must_use]
pub fn find<const N: usize>(programs: [&str; N]) -> Option<[PathBuf; N]> {
    let found = programs.map(|program| {
        let found = find_one(program);
        if found.is_none() {
            skip(&format!("`{program}` is not installed"));
        }
        found
    });
    if found.iter().any(Option::is_none) {
        return None;
    }
    Some(found.map(Option::unwrap_or_default))
}

/// Says that a test is skipped.
///
/// # Panics
///
/// If servers are required.
pub fn skip(why: &str) {
    let required = env::var_os(REQUIRE).is_some_and(|required| required == "1");
    assert!(!required, "{why}, and {REQUIRE}=1");
    let test = std::thread::current();
    let test = test.name().unwrap_or("a test");
    // Not `eprintln!`, which the test harness swallows.
    writeln!(io::stderr(), "skipped: {test}: {why}").unwrap_or_default();
}

/// A port of this address that is free right now, below those that the system gives out by itself.
///
/// # Panics
///
/// If none is free, as when the machine does not have the address.
#[must_use]
pub fn free_port(ip: IpAddr) -> SocketAddr {
    // Some servers share a port with whoever else listens there, so that tests that run at the same
    // time in several processes must not come near each other.
    let process = std::process::id().wrapping_mul(PORTS_A_PROCESS);
    let spread = u16::try_from(process % u32::from(PORTS)).unwrap_or_default();
    for _ in 0..PORTS {
        let offset = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST_PORT + spread.wrapping_add(offset) % PORTS;
        let addr = SocketAddr::new(ip, port);
        if TcpListener::bind(addr).is_ok() {
            return addr;
        }
    }
    panic!("no port of {ip} is free");
}

/// A running server with a folder of its own; it is killed when this is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    dir: TempDir,
}

impl Server {
    /// Starts a program that stays in the foreground, in a folder that holds its configuration.
    ///
    /// # Errors
    ///
    /// If the folder cannot be written, or the program not be run.
    pub fn start<A: AsRef<OsStr>>(
        program: &Path,
        arguments: &[A],
        dir: TempDir,
    ) -> io::Result<Self> {
        let log = File::create(dir.path().join(LOG))?;
        let child = Command::new(program)
            .args(arguments)
            .current_dir(dir.path())
            .env("HOME", dir.path())
            .env("XDG_CONFIG_HOME", dir.path())
            .env("XDG_DATA_HOME", dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(Self { child, dir })
    }

    /// Waits until it accepts connections at this address.
    ///
    /// # Errors
    ///
    /// If it ends, or accepts none for ten seconds; what it has said is in the message.
    pub async fn ready(&mut self, addr: SocketAddr) -> io::Result<()> {
        for _ in 0..500 {
            if let Some(status) = self.child.try_wait()? {
                let message = format!("it ended with {status}: {}", self.log());
                return Err(io::Error::other(message));
            }
            if TcpStream::connect(addr).await.is_ok() {
                return Ok(());
            }
            time::sleep(Duration::from_millis(20)).await;
        }
        let message = format!("it does not accept at {addr}: {}", self.log());
        Err(io::Error::new(io::ErrorKind::TimedOut, message))
    }

    /// Its folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What it has said so far.
    #[must_use]
    pub fn log(&self) -> String {
        let log = fs::read(self.dir.path().join(LOG)).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

fn find_one(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let mut dirs = env::split_paths(&path).chain(system);
    dirs.find_map(|dir| Some(dir.join(program)).filter(|path| path.is_file()))
}

static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

const REQUIRE: &str = "CALLBACK_SOURCE_REQUIRE_SERVERS";
const FIRST_PORT: u16 = 12_000;
const PORTS: u16 = 20_000;
const PORTS_A_PROCESS: u32 = 251;
const LOG: &str = "log";
