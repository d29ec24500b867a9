//! Real servers, started on loopback for a single test.
//!
//! A test whose server is not installed is skipped, with a line on standard error. With
//! `REQUIRE_SERVERS=1`, the test fails instead.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use tempfile::TempDir;
use tokio::{net::TcpStream, time};

/// Returns the paths of programs, or `None` if one is missing and the test must be skipped.
///
/// # Panics
///
/// If a program is missing and servers are required.
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

/// Prints that this test is skipped.
///
/// # Panics
///
/// If servers are required.
pub fn skip(why: &str) {
    let required = env::var_os(REQUIRE).is_some_and(|required| required == "1");
    assert!(!required, "{why}, and {REQUIRE}=1");
    let test = std::thread::current();
    let test = test.name().unwrap_or("a test");
    // The test harness would capture `eprintln!`.
    writeln!(io::stderr(), "skipped: {test}: {why}").unwrap_or_default();
}

/// Starts a server on a free port of this address. If another process binds the port first, tries another port. An
/// error shows this if it is `AddrInUse`, or if its text, which may contain the server's log, contains "in use".
///
/// # Errors
///
/// Any other error of `start`, or the last "in use" error after all attempts.
///
/// # Panics
///
/// If no port is free, for example because the machine does not have the address.
pub async fn on_free_port<T>(
    ip: IpAddr,
    start: impl AsyncFn(SocketAddr) -> io::Result<T>,
) -> io::Result<T> {
    let mut attempts = 5;
    loop {
        attempts -= 1;
        match start(free_port(ip)).await {
            Err(error) if attempts > 0 && is_in_use(&error) => {}
            result => return result,
        }
    }
}

/// Returns a free port that no other test uses. It is below the range from which the system assigns ports.
fn free_port(ip: IpAddr) -> SocketAddr {
    let process = std::process::id().wrapping_mul(PORTS_A_PROCESS);
    let spread = u16::try_from(process % u32::from(PORTS)).unwrap_or_default();
    for _ in 0..PORTS {
        let offset = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST_PORT + spread.wrapping_add(offset) % PORTS;
        let addr = SocketAddr::new(ip, port);
        if claim(port) && TcpListener::bind(addr).is_ok() {
            return addr;
        }
    }
    panic!("no port of {ip} is free");
}

/// Claims a port until this process ends. Returns false if a process of these tests has already claimed it.
///
/// A free port alone is not enough. Some servers share a port with another process that listens there (`SO_REUSEPORT`),
/// and then no "address in use" error occurs.
fn claim(port: u16) -> bool {
    // This address is used only for claims. Some systems, such as macOS, do not have this address.
    match UdpSocket::bind((Ipv4Addr::new(127, 255, 255, 254), port)) {
        Ok(claim) => {
            let mut claims = CLAIMS.lock().unwrap_or_else(PoisonError::into_inner);
            claims.push(claim);
            true
        }
        Err(error) => error.kind() == io::ErrorKind::AddrNotAvailable,
    }
}

fn is_in_use(error: &io::Error) -> bool {
    let text = error.to_string().to_ascii_lowercase();
    error.kind() == io::ErrorKind::AddrInUse || text.contains("in use")
}

/// A running server with its own folder. The server is killed when this value is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    dir: TempDir,
}

impl Server {
    /// Starts a program that stays in the foreground, in the folder with its configuration.
    ///
    /// # Errors
    ///
    /// If the folder cannot be written, or the program cannot be run.
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

    /// Waits until the server accepts connections at this address.
    ///
    /// # Errors
    ///
    /// If the server ends, or accepts no connection for ten seconds. The message contains the server's log.
    pub async fn ready(&mut self, addr: SocketAddr) -> io::Result<()> {
        for _ in 0..500 {
            if let Some(status) = self.child.try_wait()? {
                let message = format!("the server ended with {status}: {}", self.log());
                return Err(io::Error::other(message));
            }
            if TcpStream::connect(addr).await.is_ok() {
                return Ok(());
            }
            time::sleep(Duration::from_millis(20)).await;
        }
        let message = format!(
            "the server does not accept connections at {addr}: {}",
            self.log()
        );
        Err(io::Error::new(io::ErrorKind::TimedOut, message))
    }

    /// The server's process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The server's folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The server's output so far.
    #[must_use]
    pub fn log(&self) -> String {
        let log = fs::read(self.dir.path().join(LOG)).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The server may have ended already.
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
static CLAIMS: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());

const REQUIRE: &str = "REQUIRE_SERVERS";
const FIRST_PORT: u16 = 12_000;
const PORTS: u16 = 20_000;
const PORTS_A_PROCESS: u32 = 251;
const LOG: &str = "log";

#[cfg(test)]
mod tests {
    use super::*;

    const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[tokio::test]
    async fn a_port_that_another_process_binds_first_is_replaced() -> io::Result<()> {
        let tried = Mutex::new(Vec::new());
        let (_other, listener) = on_free_port(LOCALHOST, async |addr| {
            let is_first = {
                let mut tried = tried.lock().unwrap_or_else(PoisonError::into_inner);
                tried.push(addr);
                tried.len() == 1
            };
            let other = if is_first {
                Some(TcpListener::bind(addr)?)
            } else {
                None
            };
            Ok((other, TcpListener::bind(addr)?))
        })
        .await?;
        let tried = tried.into_inner().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(tried.len(), 2);
        assert_eq!(listener.local_addr()?, tried[1]);
        Ok(())
    }

    #[tokio::test]
    async fn another_error_is_not_retried() {
        let attempts = AtomicU16::new(0);
        let result = on_free_port(LOCALHOST, async |_| {
            attempts.fetch_add(1, Ordering::Relaxed);
            Err::<(), _>(io::Error::other("unknown directive"))
        });
        assert!(result.await.is_err());
        assert_eq!(attempts.into_inner(), 1);
    }

    #[test]
    fn a_claimed_port_is_not_given_out_again() {
        let port = free_port(LOCALHOST).port();
        assert!(!cfg!(target_os = "linux") || !claim(port));
    }
}
