//! Tests of replay marks in a real Redis: with two replicas, and with a server that is killed, stopped, full, or
//! replaced.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use axum::{Router, body::Body, routing::post};
use callback_source::{
    CallbackRoutes, Policy,
    signature::{RedisReplayStore, ReplayGuard, Secret, VerifySignatureLayer},
    verify::ConnectInfoPeer,
};
use callback_source_testkit::Delivery;
use http::Request;
use integration_tests::{log::Log, servers, servers::Server, within};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::Instant,
};
use tower::ServiceExt;

type TestResult = Result<(), Box<dyn std::error::Error>>;

const LISTED: IpAddr = IpAddr::V4(Ipv4Addr::new(20, 0, 0, 1));
const LIMIT: Duration = Duration::from_millis(500);

/// A running Redis server, which stores nothing on disk.
struct Redis {
    server: Server,
    addr: SocketAddr,
}

impl Redis {
    /// Returns `None` if Redis is not installed.
    async fn start(options: &[&str]) -> io::Result<Option<Self>> {
        let Some([program, _]) = servers::find(["redis-server", "redis-cli"]) else {
            return Ok(None);
        };
        let loopback = Ipv4Addr::LOCALHOST.into();
        let redis = servers::on_free_port(loopback, async |addr| {
            Self::at(&program, addr, options).await
        });
        redis.await.map(Some)
    }

    async fn at(program: &Path, addr: SocketAddr, options: &[&str]) -> io::Result<Self> {
        let port = addr.port().to_string();
        let mut arguments = vec!["--bind", "127.0.0.1", "--port", &port];
        arguments.extend(["--save", "", "--appendonly", "no"]);
        arguments.extend(options);
        let mut server = Server::start(program, &arguments, TempDir::new()?)?;
        server.ready(addr).await?;
        Ok(Self { server, addr })
    }

    fn url(&self) -> String {
        format!("redis://{}/", self.addr)
    }

    /// Returns the output of a command that `redis-cli` sends to the server.
    fn cli(&self, command: &[&str]) -> io::Result<String> {
        let port = self.addr.port().to_string();
        let output = Command::new("redis-cli")
            .args(["-p", &port])
            .args(command)
            .output()?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn signal(&self, signal: &str) -> io::Result<()> {
        let pid = self.server.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status()?;
        assert!(sent.success());
        Ok(())
    }
}

fn secret() -> Secret {
    Secret::new("of the registration").unwrap()
}

/// Creates a replica of the shop. Like another process, it has its own guard and its own connection.
fn replica(url: &str, configure: impl FnOnce(ReplayGuard) -> ReplayGuard) -> Router {
    let store = RedisReplayStore::new(url).unwrap();
    let guard = configure(ReplayGuard::default().with_store(store));
    let layer = VerifySignatureLayer::rejecting(secret()).replay_guard(guard);
    let routes = Router::new().route("/hooks", post(async || "received"));
    let list = callback_source::AllowList::fixed([LISTED]);
    let routes = CallbackRoutes::rejecting(routes, list, ConnectInfoPeer);
    Router::from(routes.signature(Policy::Both, layer))
}

fn lenient(guard: ReplayGuard) -> ReplayGuard {
    guard
}

/// Returns a signed delivery. Each call must pass a different body, so that all deliveries differ.
fn delivery(body: &str) -> Delivery {
    Delivery::new("https://shop.example/hooks")
        .from_peer(LISTED)
        .body(body.to_owned())
        .signed_at(&secret(), SystemTime::now())
}

async fn status(replica: &Router, request: Request<Body>) -> u16 {
    let response = within(replica.clone().oneshot(request)).await.unwrap();
    response.status().as_u16()
}

/// Sends new deliveries, each to both replicas, until the second replica refuses a delivery as a replay.
async fn until_marks_are_shared(replicas: [&Router; 2]) {
    static ATTEMPT: AtomicU64 = AtomicU64::new(0);
    within(async {
        loop {
            let attempt = ATTEMPT.fetch_add(1, Ordering::Relaxed);
            let delivery = delivery(&format!("attempt {attempt}"));
            assert_ne!(status(replicas[0], delivery.request()).await, 409);
            if status(replicas[1], delivery.request()).await == 409 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_delivery_is_accepted_by_one_of_two_replicas_with_redis() -> TestResult {
    let Some(redis) = Redis::start(&[]).await? else {
        return Ok(());
    };
    let [first, second] = [(); 2].map(|()| replica(&redis.url(), lenient));
    let paid = delivery("paid");
    assert_eq!(status(&first, paid.request()).await, 200);
    assert_eq!(status(&second, paid.request()).await, 409);
    assert_eq!(status(&first, paid.request()).await, 409);
    assert_eq!(status(&second, delivery("refunded").request()).await, 200);

    // There is one key for each delivery. It expires after twice the time window of signatures, plus a minute.
    let keys = redis.cli(&["KEYS", "callback-source:replay:*"])?;
    assert_eq!(keys.lines().count(), 2, "{keys}");
    let key = keys.lines().next().unwrap();
    let ends_in: u64 = redis.cli(&["PTTL", key])?.parse()?;
    assert!((600_000..=660_000).contains(&ends_in), "{ends_in}");
    Ok(())
}

#[tokio::test]
async fn of_copies_at_the_same_time_one_is_accepted_with_redis() -> TestResult {
    let Some(redis) = Redis::start(&[]).await? else {
        return Ok(());
    };
    let replicas = [(); 2].map(|()| replica(&redis.url(), lenient));
    for round in 0..20 {
        let copies = delivery(&format!("round {round}"));
        let mut tasks = JoinSet::new();
        for copy in 0..8 {
            let replica = replicas[copy % 2].clone();
            let request = copies.request();
            tasks.spawn(async move { status(&replica, request).await });
        }
        let statuses = tasks.join_all().await;
        let accepted = statuses.iter().filter(|status| **status == 200).count();
        assert_eq!(accepted, 1, "{statuses:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_withdrawn_mark_leaves_redis_and_the_mark_of_another_stays() -> TestResult {
    let Some(redis) = Redis::start(&[]).await? else {
        return Ok(());
    };
    // The handler needs a verdict that no layer adds, so every delivery is refused after it has passed the guard.
    let guard = ReplayGuard::default().with_store(RedisReplayStore::new(&redis.url())?);
    let refusing = Router::new()
        .route(
            "/hooks",
            post(async |_: callback_source::VerifiedCallback| ()),
        )
        .route_layer(VerifySignatureLayer::rejecting(secret()).replay_guard(guard));
    let paid = delivery("paid");
    assert_eq!(status(&refusing, paid.request()).await, 500);
    within(async {
        while redis.cli(&["DBSIZE"]).unwrap() != "0" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let accepting = replica(&redis.url(), lenient);
    assert_eq!(status(&accepting, paid.request()).await, 200);

    // The delivery is refused as a replay, so the mark of the accepted delivery is not withdrawn.
    assert_eq!(status(&refusing, paid.request()).await, 409);
    assert_eq!(redis.cli(&["DBSIZE"])?, "1");
    Ok(())
}

#[tokio::test]
async fn a_killed_redis_refuses_no_delivery_and_is_used_again_when_it_returns() -> TestResult {
    let Some(redis) = Redis::start(&[]).await? else {
        return Ok(());
    };
    let log = Log::capture();
    let [first, second] = [(); 2].map(|()| replica(&redis.url(), lenient));
    until_marks_are_shared([&first, &second]).await;
    let (addr, url) = (redis.addr, redis.url());
    drop(redis);
    let paid = delivery("paid while it is down");
    for replica in [&first, &second] {
        let start = Instant::now();
        assert_eq!(status(replica, paid.request()).await, 200);
        assert_eq!(status(replica, paid.request()).await, 409);
        assert!(start.elapsed() < 2 * LIMIT, "{:?}", start.elapsed());
    }
    let warnings = log.lines(
        "WARN",
        &["store of replay marks", "let through", "operation=\"mark\""],
    );
    assert_eq!(warnings.len(), 2, "one for each replica: {warnings:?}");

    // During the outage, two replicas start. The second replica requires the store.
    let late = replica(&url, lenient);
    assert_eq!(status(&late, delivery("late").request()).await, 200);
    let strict = replica(&url, ReplayGuard::require_store);
    let refused = delivery("strict");
    assert_eq!(status(&strict, refused.request()).await, 503);

    let Some([program]) = servers::find(["redis-server"]) else {
        return Ok(());
    };
    let _redis = Redis::at(&program, addr, &[]).await?;
    until_marks_are_shared([&first, &second]).await;
    until_marks_are_shared([&late, &first]).await;
    within(async { while status(&strict, refused.request()).await == 503 {} }).await;
    assert_eq!(status(&first, refused.request()).await, 409);
    Ok(())
}

#[tokio::test]
async fn a_stopped_redis_delays_a_delivery_for_the_time_limit_only() -> TestResult {
    let Some(redis) = Redis::start(&[]).await? else {
        return Ok(());
    };
    let [first, second] = [(); 2].map(|()| replica(&redis.url(), lenient));
    let strict = replica(&redis.url(), ReplayGuard::require_store);
    until_marks_are_shared([&first, &second]).await;
    until_marks_are_shared([&strict, &second]).await;
    redis.signal("-STOP")?;
    let start = Instant::now();
    assert_eq!(status(&first, delivery("slow").request()).await, 200);
    let waited = start.elapsed();
    assert!(LIMIT * 9 / 10 <= waited && waited < 4 * LIMIT, "{waited:?}");
    let refused = delivery("refused while it is slow");
    assert_eq!(status(&strict, refused.request()).await, 503);
    redis.signal("-CONT")?;
    until_marks_are_shared([&first, &second]).await;
    // The mark of the refused delivery arrived late, but was withdrawn.
    within(async { while status(&second, refused.request()).await != 200 {} }).await;
    Ok(())
}

#[tokio::test]
async fn a_full_redis_refuses_no_delivery() -> TestResult {
    let full = ["--maxmemory", "100kb", "--maxmemory-policy", "noeviction"];
    let Some(redis) = Redis::start(&full).await? else {
        return Ok(());
    };
    let log = Log::capture();
    let [first, second] = [(); 2].map(|()| replica(&redis.url(), lenient));
    let paid = delivery("paid");
    assert_eq!(status(&first, paid.request()).await, 200);
    assert_eq!(status(&first, paid.request()).await, 409);
    assert_eq!(status(&second, paid.request()).await, 200);
    assert!(!log.lines("WARN", &["let through", "OOM"]).is_empty());
    let strict = replica(&redis.url(), ReplayGuard::require_store);
    assert_eq!(status(&strict, delivery("strict").request()).await, 503);

    redis.cli(&["CONFIG", "SET", "maxmemory", "100mb"])?;
    let refunded = delivery("refunded");
    assert_eq!(status(&first, refunded.request()).await, 200);
    assert_eq!(status(&second, refunded.request()).await, 409);
    Ok(())
}

#[tokio::test]
async fn a_redis_with_a_password_is_used_and_no_log_line_contains_it() -> TestResult {
    let Some(redis) = Redis::start(&["--requirepass", "hunter2"]).await? else {
        return Ok(());
    };
    let log = Log::capture();
    let url = |password: &str| format!("redis://:{password}@{}/", redis.addr);
    let [first, second] = [(); 2].map(|()| replica(&url("hunter2"), lenient));
    let paid = delivery("paid");
    assert_eq!(status(&first, paid.request()).await, 200);
    assert_eq!(status(&second, paid.request()).await, 409);
    let wrong = replica(&url("hunter3"), lenient);
    assert_eq!(status(&wrong, delivery("wrong").request()).await, 200);
    assert_eq!(log.lines("WARN", &["let through"]).len(), 1);
    assert!(log.lines("WARN", &["hunter"]).is_empty());

    let error = RedisReplayStore::new("http://:hunter2@shop.example/").unwrap_err();
    let printed = format!("{error:?}");
    assert!(printed.starts_with("invalid Redis URL"), "{printed}");
    assert!(!printed.contains("hunter2"), "{printed}");
    Ok(())
}

/// A replica sends one command for each delivery. A proxy between the replica and Redis counts the commands.
#[tokio::test]
async fn a_delivery_is_one_round_trip() -> TestResult {
    let Some(redis) = Redis::start(&[]).await? else {
        return Ok(());
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let proxy = listener.local_addr()?;
    let server = redis.addr;
    let mut tasks = JoinSet::new();
    let (commands, mut seen) = tokio::sync::mpsc::unbounded_channel();
    tasks.spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = TcpStream::connect(server).await.unwrap();
        let (mut request, mut response) = ([0; 4096], [0; 4096]);
        loop {
            tokio::select! {
                read = client.read(&mut request) => {
                    let read = &request[..read.unwrap()];
                    if read.is_empty() { return; }
                    commands.send(String::from_utf8_lossy(read).into_owned()).unwrap();
                    server.write_all(read).await.unwrap();
                }
                read = server.read(&mut response) => {
                    let read = &response[..read.unwrap()];
                    if read.is_empty() { return; }
                    client.write_all(read).await.unwrap();
                }
            }
        }
    });
    let replica = replica(&format!("redis://{proxy}/"), lenient);
    assert_eq!(status(&replica, delivery("opens").request()).await, 200);
    while seen.try_recv().is_ok() {}
    for number in 0..3 {
        let paid = delivery(&format!("paid {number}"));
        assert_eq!(status(&replica, paid.request()).await, 200);
        let command = within(seen.recv()).await.unwrap();
        assert!(command.starts_with("*6\r\n$3\r\nSET\r\n"), "{command:?}");
        assert!(command.contains("\r\nNX\r\n") && command.contains("\r\nPX\r\n"));
        assert!(seen.try_recv().is_err());
    }
    Ok(())
}
