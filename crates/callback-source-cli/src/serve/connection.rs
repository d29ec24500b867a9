//! One connection, and how long its client may keep it waiting.
//!
//! hyper's own limit on the time for a request's head starts when the previous response ends, so it
//! would be the limit on idleness, too. Callbacks are rare, and a proxy that finds its idle connection
//! closed loses one: idleness is long, and a head has its ten seconds from its first byte. Neither is
//! there while a request is being answered.

use std::{
    convert::Infallible,
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http::{HeaderValue, Request, Version, header};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::graceful::GracefulConnection,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    sync::watch,
    time::{Instant, Sleep, sleep_until, timeout},
};
use tracing::debug;

use super::{
    answer::{App, Door},
    listener::{Arrived, Stream},
};

/// What all connections are told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Signal {
    /// There are too many.
    pub(super) crowded: bool,
    /// The server stops, since then.
    pub(super) stopping: Option<Instant>,
}

/// Serves a connection to its end.
pub(super) async fn serve(
    arrived: Arrived,
    app: Arc<App>,
    door: Door,
    mut signal: watch::Receiver<Signal>,
) {
    let Arrived {
        mut stream,
        mut peer,
        proxy,
    } = arrived;
    let waiting = Arc::new(Waiting::new(Instant::now()));
    let opening = async {
        let ahead = match proxy {
            Some(proxy) => {
                let (client, ahead) = proxy.header(&mut stream).await?;
                peer = client;
                ahead
            }
            None => Vec::new(),
        };
        protocol(&mut stream, ahead).await
    };
    let protocol = {
        let opening = pin!(opening);
        patiently(opening, &waiting, &mut signal, |_| {}).await
    };
    let Some(Ok((protocol, read))) = protocol else {
        return;
    };
    let io = TokioIo::new(Watched {
        stream,
        read,
        waiting: (protocol == Protocol::Http1).then(|| Arc::clone(&waiting)),
    });

    let stop = signal.clone();
    let service = service_fn(|request: Request<Incoming>| {
        let app = Arc::clone(&app);
        let answering = Answering::start(&waiting);
        let stop = stop.clone();
        let body_read = Arc::clone(&waiting);
        async move {
            let version = request.version();
            let body_read = move || body_read.body_ended();
            let mut response = app.respond(door, peer, request, body_read).await;
            if stop.borrow().stopping.is_some() && version < Version::HTTP_2 {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            drop(answering);
            Ok::<_, Infallible>(response)
        }
    });
    match protocol {
        Protocol::Http1 => {
            let connection = http1::Builder::new()
                .half_close(true)
                .header_read_timeout(None)
                .max_buf_size(BUFFER)
                .max_header_size(HEAD_SIZE)
                .max_headers(HEAD_LINES)
                .serve_connection(io, service);
            // An idle connection is not closed when the server stops: the next request may be on its
            // way. It is the last one.
            drive(connection, &waiting, &mut signal, |_| {}).await;
        }
        Protocol::Http2 => {
            let connection = http2::Builder::new(TokioExecutor::new())
                .max_header_list_size(HEAD_LIST_SIZE)
                .serve_connection(io, service);
            drive(connection, &waiting, &mut signal, |connection| {
                connection.graceful_shutdown();
            })
            .await;
        }
    }
}

async fn drive<C>(
    connection: C,
    waiting: &Waiting,
    signal: &mut watch::Receiver<Signal>,
    on_stop: fn(Pin<&mut C>),
) where
    C: GracefulConnection<Error = hyper::Error>,
{
    let mut connection = pin!(connection);
    let end = match patiently(connection.as_mut(), waiting, signal, on_stop).await {
        Some(end) => Some(end),
        None => {
            connection.as_mut().graceful_shutdown();
            timeout(FAREWELL, connection).await.ok()
        }
    };
    if let Some(Err(error)) = end {
        debug!(%error, "connection ended");
    }
}

/// Runs a future to its end, or until the client has kept it waiting for too long.
async fn patiently<F: Future>(
    mut future: Pin<&mut F>,
    waiting: &Waiting,
    signal: &mut watch::Receiver<Signal>,
    on_stop: fn(Pin<&mut F>),
) -> Option<F::Output> {
    let mut alarm = pin!(sleep_until(Instant::now()));
    let mut told = false;
    loop {
        let limits = Limits::of(*signal.borrow_and_update());
        if limits.stopping && !told {
            told = true;
            on_stop(future.as_mut());
        }
        let end = std::future::poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            // By now the future has taken in whatever the client sent.
            match waiting.ends(&limits) {
                Some(end) => poll_at(alarm.as_mut(), end, cx).map(|()| None),
                None => Poll::Pending,
            }
        });
        tokio::select! {
            end = end => return end,
            changed = signal.changed() => {
                if changed.is_err() {
                    return None;
                }
            }
        }
    }
}

fn poll_at(mut alarm: Pin<&mut Sleep>, end: Instant, cx: &mut Context<'_>) -> Poll<()> {
    if alarm.deadline() != end {
        alarm.as_mut().reset(end);
    }
    alarm.poll(cx)
}

/// How long a client may keep a connection waiting.
#[derive(Clone, Copy, Debug)]
struct Limits {
    head: Duration,
    idle: Duration,
    /// Idleness counts from here at the earliest.
    idle_from: Option<Instant>,
    stopping: bool,
}

impl Limits {
    fn of(signal: Signal) -> Self {
        let (head, idle) = match (signal.stopping, signal.crowded) {
            (Some(_), _) => (HEAD_TIME, STOPPING_IDLE_TIME),
            (None, true) => (CROWDED_TIME, CROWDED_TIME),
            (None, false) => (HEAD_TIME, IDLE_TIME),
        };
        Self {
            head,
            idle,
            idle_from: signal.stopping,
            stopping: signal.stopping.is_some(),
        }
    }
}

/// What a connection waits for.
#[derive(Debug)]
struct Waiting(Mutex<Stage>);

#[derive(Debug)]
struct Stage {
    /// How many requests are being answered.
    answering: usize,
    /// Since when none is.
    idle_since: Instant,
    /// When the head of the next request began.
    head_since: Option<Instant>,
}

impl Waiting {
    /// The first head is due from the start.
    fn new(now: Instant) -> Self {
        Self(Mutex::new(Stage {
            answering: 0,
            idle_since: now,
            head_since: Some(now),
        }))
    }

    fn received(&self) {
        let mut stage = self.stage();
        if stage.answering == 0 && stage.head_since.is_none() {
            stage.head_since = Some(Instant::now());
        }
    }

    /// What came after the answer belonged to its request, and was not the start of the next head.
    fn body_ended(&self) {
        let mut stage = self.stage();
        if stage.answering == 0 {
            stage.head_since = None;
            stage.idle_since = Instant::now();
        }
    }

    /// When the client will have kept the connection waiting for too long.
    fn ends(&self, limits: &Limits) -> Option<Instant> {
        let stage = self.stage();
        if stage.answering > 0 {
            return None;
        }
        Some(match stage.head_since {
            Some(since) => since + limits.head,
            None => {
                limits
                    .idle_from
                    .map_or(stage.idle_since, |from| from.max(stage.idle_since))
                    + limits.idle
            }
        })
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is being answered.
struct Answering(Arc<Waiting>);

impl Answering {
    fn start(waiting: &Arc<Waiting>) -> Self {
        let mut stage = waiting.stage();
        stage.answering += 1;
        stage.head_since = None;
        Self(Arc::clone(waiting))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let mut stage = self.0.stage();
        stage.answering -= 1;
        stage.idle_since = Instant::now();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

/// Tells by the first bytes which protocol it is, and gives these bytes back.
async fn protocol(stream: &mut Stream, mut read: Vec<u8>) -> io::Result<(Protocol, Bytes)> {
    loop {
        let known = read.len().min(HTTP2_PREFACE.len());
        if read[..known] != HTTP2_PREFACE[..known] {
            return Ok((Protocol::Http1, read.into()));
        }
        if known == HTTP2_PREFACE.len() {
            return Ok((Protocol::Http2, read.into()));
        }
        let mut bytes = [0; HTTP2_PREFACE.len()];
        match stream.read(&mut bytes[known..]).await? {
            0 => return Ok((Protocol::Http1, read.into())),
            length => read.extend_from_slice(&bytes[known..known + length]),
        }
    }
}

/// A stream that first gives back what was read of it, and says when something came.
#[derive(Debug)]
struct Watched {
    stream: Stream,
    read: Bytes,
    /// None for HTTP/2, where what comes may be anything, such as a ping.
    waiting: Option<Arc<Waiting>>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.read.is_empty() {
            let length = self.read.len().min(buffer.remaining());
            buffer.put_slice(&self.read[..length]);
            self.read.advance(length);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if let Some(waiting) = &self.waiting
            && before < buffer.filled().len()
        {
            waiting.received();
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The largest head of a request; 431 beyond it.
const HEAD_SIZE: usize = 16 * 1024;
const HEAD_LIST_SIZE: u32 = 16 * 1024;
const HEAD_LINES: usize = 512;
const BUFFER: usize = 64 * 1024;

const HEAD_TIME: Duration = Duration::from_secs(10);

/// Longer than proxies keep a connection that they do not use (nginx 60 s, Traefik 90 s, Caddy 120 s),
/// so that it is they who close it.
const IDLE_TIME: Duration = Duration::from_secs(150);

const CROWDED_TIME: Duration = Duration::from_secs(1);

/// For a request that was sent before the client could know.
const STOPPING_IDLE_TIME: Duration = Duration::from_millis(500);

/// For the last frames of a connection that is closed.
const FAREWELL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const NORMAL: Signal = Signal {
        crowded: false,
        stopping: None,
    };

    /// For how long the client may still keep the connection waiting.
    fn left(waiting: &Waiting, signal: Signal) -> Option<Duration> {
        let ends = waiting.ends(&Limits::of(signal))?;
        Some(ends.saturating_duration_since(Instant::now()))
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_head_is_due_from_the_start() {
        let waiting = Waiting::new(Instant::now());
        assert_eq!(left(&waiting, NORMAL), Some(HEAD_TIME));
        advance(Duration::from_secs(4)).await;
        waiting.received();
        assert_eq!(left(&waiting, NORMAL), Some(Duration::from_secs(6)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_head_is_due_from_its_first_byte() {
        let waiting = Arc::new(Waiting::new(Instant::now()));
        let answering = Answering::start(&waiting);
        assert_eq!(left(&waiting, NORMAL), None);
        advance(Duration::from_secs(60)).await;
        drop(answering);
        assert_eq!(left(&waiting, NORMAL), Some(IDLE_TIME));

        advance(Duration::from_secs(149)).await;
        waiting.received();
        assert_eq!(left(&waiting, NORMAL), Some(HEAD_TIME));
        advance(Duration::from_secs(3)).await;
        waiting.received();
        assert_eq!(left(&waiting, NORMAL), Some(Duration::from_secs(7)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_comes_after_the_answer_is_not_the_start_of_a_head() {
        let waiting = Arc::new(Waiting::new(Instant::now()));
        drop(Answering::start(&waiting));
        waiting.received();
        waiting.body_ended();
        assert_eq!(left(&waiting, NORMAL), Some(IDLE_TIME));
        waiting.received();
        assert_eq!(left(&waiting, NORMAL), Some(HEAD_TIME));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_due_while_any_request_is_answered() {
        let waiting = Arc::new(Waiting::new(Instant::now()));
        let first = Answering::start(&waiting);
        let second = Answering::start(&waiting);
        drop(first);
        waiting.received();
        assert_eq!(left(&waiting, NORMAL), None);
        drop(second);
        assert_eq!(left(&waiting, NORMAL), Some(IDLE_TIME));
    }

    #[tokio::test(start_paused = true)]
    async fn who_kept_a_crowded_server_waiting_for_a_second_goes() {
        let crowded = Signal {
            crowded: true,
            stopping: None,
        };
        let waiting = Arc::new(Waiting::new(Instant::now()));
        assert_eq!(left(&waiting, crowded), Some(CROWDED_TIME));
        drop(Answering::start(&waiting));
        advance(Duration::from_secs(20)).await;
        assert_eq!(left(&waiting, crowded), Some(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_has_a_moment_left_when_the_server_stops() {
        let waiting = Arc::new(Waiting::new(Instant::now()));
        drop(Answering::start(&waiting));
        advance(Duration::from_secs(20)).await;
        let stopping = Signal {
            crowded: true,
            stopping: Some(Instant::now()),
        };
        assert_eq!(left(&waiting, stopping), Some(STOPPING_IDLE_TIME));
    }
}
