//! A connection, and how long its client may keep it waiting.
//!
//! hyper's own limit on the time for a request's head starts when the previous response ends, so it
//! would be the limit on idleness, too. Callbacks are rare, and a proxy that finds its idle connection
//! closed loses one: idleness is long, and a head has its ten seconds from its first byte. Neither is
//! there while a request is being answered.
//!
//! hyper is never given a byte beyond the request it is at. Otherwise it could keep the first half of the
//! next head in its own buffer, and nothing here would know that a head had begun.

use std::{
    convert::Infallible,
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http::{HeaderValue, Request, Version, header};
use http_body::Body as _;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    sync::{Notify, watch},
    time::{Instant, Sleep, sleep_until, timeout},
};
use tracing::debug;

use super::{
    answer::{App, Door},
    framing::Coming,
    listener::{Arrived, Stream},
    places::Place,
};

/// What all connections are told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Signal {
    /// There are too many.
    pub(super) crowded: bool,
    /// The server stops, since then.
    pub(super) stopping: Option<Instant>,
}

/// Settings that the connections of a listener share.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    pub(super) app: Arc<App>,
    pub(super) door: Door,
    /// How long a connection may be idle.
    pub(super) idle_timeout: Duration,
}

/// Serves a connection to its end.
pub(super) async fn serve(
    arrived: Arrived,
    mut place: Place,
    terms: Terms,
    signal: watch::Receiver<Signal>,
) {
    let Arrived {
        mut stream,
        mut peer,
        proxy,
    } = arrived;
    let waiting = Arc::clone(place.waiting());
    let mut patience = Patience {
        waiting: Arc::clone(&waiting),
        signal,
        idle_timeout: terms.idle_timeout,
        spared: place.is_spared(),
        told: None,
    };
    let ahead = match proxy {
        Some(proxy) => {
            let header = patiently(pin!(proxy.header(&mut stream)), &mut patience, |_| {}).await;
            let Some(Ok((client, ahead))) = header else {
                return;
            };
            peer = client;
            place.belongs_to(proxy.owner(client));
            // The client has less patience than its proxy had.
            patience.spared = place.is_spared();
            ahead
        }
        None => Vec::new(),
    };
    let opening = patiently(pin!(protocol(&mut stream, ahead)), &mut patience, |_| {}).await;
    let Some(Ok((protocol, read))) = opening else {
        return;
    };
    let spared = patience.spared;
    let mut watched = Watched {
        stream,
        read,
        waiting: (protocol == Protocol::Http1).then(|| Arc::clone(&waiting)),
    };

    let told = patience.signal.clone();
    let service = service_fn(|request: Request<Incoming>| {
        let Terms { app, door, .. } = terms.clone();
        let answering = Answering::start(&waiting, request.body().size_hint().exact());
        let (told, waiting) = (told.clone(), Arc::clone(&waiting));
        async move {
            let version = request.version();
            let (mut response, body_is_whole) = app.respond(door, peer, request).await;
            let leaves = waiting.is_displaced() || Limits::leaves(*told.borrow(), spared);
            if version < Version::HTTP_2 && (leaves || !body_is_whole) {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
                if version == Version::HTTP_10 {
                    // hyper adds `keep-alive` to a response of another version than the request's.
                    *response.version_mut() = Version::HTTP_10;
                }
            }
            drop(answering);
            Ok::<_, Infallible>(response)
        }
    });
    match protocol {
        Protocol::Http1 => {
            let ended = {
                let connection = http1::Builder::new()
                    .half_close(true)
                    .header_read_timeout(None)
                    .max_buf_size(BUFFER)
                    .max_header_size(HEAD_SIZE)
                    .max_headers(HEAD_LINES)
                    .serve_connection(TokioIo::new(&mut watched), service);
                // An idle connection is not closed when the server stops: the next request may be on its
                // way. It is the last one.
                patiently(pin!(connection), &mut patience, |_| {}).await
            };
            if let Some(end) = ended {
                tell(end);
                waiting.lingers();
                let linger = timeout(LINGER_TIME, linger(&mut watched.stream));
                patiently(pin!(linger), &mut patience, |_| {}).await;
            }
        }
        Protocol::Http2 => {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .max_header_list_size(HEAD_LIST_SIZE)
                .max_concurrent_streams(STREAMS)
                .initial_stream_window_size(WINDOW)
                .initial_connection_window_size(WINDOW)
                .max_send_buf_size(BUFFER);
            if spared {
                // A proxy asks about many callers over a connection. Those who wait for an on-demand refresh
                // must leave room for the provider's servers, and no number of requests that are cancelled or
                // malformed may end the connection.
                builder
                    .max_concurrent_streams(STREAMS_OF_TRUSTED)
                    .max_pending_accept_reset_streams(STREAMS_OF_TRUSTED as usize)
                    .max_local_error_reset_streams(None);
            }
            let connection = builder.serve_connection(TokioIo::new(watched), service);
            let mut connection = pin!(connection);
            let ended = patiently(connection.as_mut(), &mut patience, |connection| {
                connection.graceful_shutdown();
            });
            match ended.await {
                Some(end) => tell(end),
                None => {
                    connection.as_mut().graceful_shutdown();
                    // Its place is waited for: the frames are written, and not acknowledged.
                    let farewell = match waiting.is_displaced() {
                        true => Duration::ZERO,
                        false => FAREWELL,
                    };
                    if let Ok(end) = timeout(farewell, connection).await {
                        tell(end);
                    }
                }
            }
        }
    }
}

fn tell(end: hyper::Result<()>) {
    if let Err(error) = end {
        debug!(%error, "connection ended");
    }
}

/// Reads until the client has closed its side.
///
/// Closing a socket that has unread bytes, or gets some afterwards, resets the connection, and the reset can
/// overtake the answer: a client that still sends its body would never see why it is refused.
async fn linger(stream: &mut Stream) {
    if stream.shutdown().await.is_ok() {
        let mut bytes = vec![0; 4 * 1024];
        while let Ok(1..) = stream.read(&mut bytes).await {}
    }
}

/// Limits on how long a client may keep its connection waiting, and the signals that shorten them.
#[derive(Debug)]
struct Patience {
    waiting: Arc<Waiting>,
    signal: watch::Receiver<Signal>,
    idle_timeout: Duration,
    /// Whether it stays when the listener is crowded.
    spared: bool,
    /// Time at which the connection was told that its request is the last.
    told: Option<Instant>,
}

impl Patience {
    fn limits(&mut self) -> Limits {
        let signal = *self.signal.borrow_and_update();
        let mut limits = Limits::of(signal, self.spared, self.idle_timeout);
        if limits.leaves || self.waiting.is_displaced() {
            let told = *self.told.get_or_insert_with(Instant::now);
            limits.last_answer = Some(told + LEAVING_TIME);
        }
        limits
    }
}

/// Runs a future to its end, or until the client has kept it waiting for too long.
async fn patiently<F: Future>(
    mut future: Pin<&mut F>,
    patience: &mut Patience,
    on_leaving: fn(Pin<&mut F>),
) -> Option<F::Output> {
    let mut alarm = pin!(sleep_until(Instant::now()));
    let mut told = false;
    loop {
        let limits = patience.limits();
        if limits.last_answer.is_some() && !told {
            told = true;
            on_leaving(future.as_mut());
        }
        let waiting = &patience.waiting;
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
            () = waiting.displaced() => {}
            changed = patience.signal.changed() => {
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
    /// Whether the connection ends with the answer to its request.
    leaves: bool,
    /// When even a request that is being answered is cut, such as of a client that ignores GOAWAY.
    last_answer: Option<Instant>,
}

impl Limits {
    fn of(signal: Signal, spared: bool, idle_timeout: Duration) -> Self {
        let (head, idle) = match (signal.stopping, signal.crowded && !spared) {
            (Some(_), _) => (HEAD_TIME, STOPPING_IDLE_TIME),
            (None, true) => (CROWDED_TIME, CROWDED_TIME),
            (None, false) => (HEAD_TIME, idle_timeout),
        };
        Self {
            head,
            idle,
            idle_from: signal.stopping,
            leaves: Self::leaves(signal, spared),
            last_answer: None,
        }
    }

    fn leaves(signal: Signal, spared: bool) -> bool {
        signal.stopping.is_some() || (signal.crowded && !spared)
    }
}

/// What a connection waits for.
#[derive(Debug)]
pub(super) struct Waiting {
    stage: Mutex<Stage>,
    displaced: Notify,
}

/// Outcome of an attempt to displace a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Displaced {
    Now,
    Before,
    NotYet,
    NotWhileAnswering,
}

#[derive(Debug)]
struct Stage {
    /// How many requests are being answered.
    answering: usize,
    /// Since when none is.
    idle_since: Instant,
    /// When the head of the next request began.
    head_since: Option<Instant>,
    /// Which part of a request the next byte belongs to.
    coming: Coming,
    /// Time at which the place was given to another connection.
    displaced: Option<Instant>,
    /// Whether only the client's end of the connection is due.
    lingers: bool,
}

impl Waiting {
    /// The first head is due from the start.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            stage: Mutex::new(Stage {
                answering: 0,
                idle_since: now,
                head_since: Some(now),
                coming: Coming::default(),
                displaced: None,
                lingers: false,
            }),
            displaced: Notify::new(),
        }
    }

    /// Returns how many of these bytes belong to the request that is being read.
    fn received(&self, bytes: &[u8]) -> usize {
        let mut stage = self.stage();
        if stage.answering == 0 && stage.coming.is_head() && stage.head_since.is_none() {
            stage.head_since = Some(Instant::now());
        }
        stage.coming.take(bytes)
    }

    /// When the client will have kept the connection waiting for too long.
    fn ends(&self, limits: &Limits) -> Option<Instant> {
        let stage = self.stage();
        if stage.answering > 0 {
            return limits.last_answer;
        }
        let ends = match stage.head_since {
            Some(since) => since + limits.head,
            None => {
                limits
                    .idle_from
                    .map_or(stage.idle_since, |from| from.max(stage.idle_since))
                    + limits.idle
            }
        };
        Some(stage.displaced.map_or(ends, |since| since.min(ends)))
    }

    /// Ends the connection: at once, or with the answer to its request.
    pub(super) fn displace(&self) {
        self.stage().displaced.get_or_insert_with(Instant::now);
        self.displaced.notify_one();
    }

    /// Ends the connection if it has waited for its client for this long.
    pub(super) fn displace_if_idle(&self, for_at_least: Duration) -> Displaced {
        let stage = self.stage();
        if stage.displaced.is_some() {
            return Displaced::Before;
        }
        if stage.answering > 0 {
            return Displaced::NotWhileAnswering;
        }
        let since = stage.head_since.unwrap_or(stage.idle_since);
        if since.elapsed() < for_at_least && !stage.lingers {
            return Displaced::NotYet;
        }
        drop(stage);
        self.displace();
        Displaced::Now
    }

    /// The last answer was sent.
    fn lingers(&self) {
        self.stage().lingers = true;
    }

    pub(super) fn is_displaced(&self) -> bool {
        self.stage().displaced.is_some()
    }

    pub(super) async fn displaced(&self) {
        self.displaced.notified().await;
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is being answered.
pub(super) struct Answering(Arc<Waiting>);

impl Answering {
    /// With the length of the body, unless it comes in chunks.
    pub(super) fn start(waiting: &Arc<Waiting>, body: Option<u64>) -> Self {
        let mut stage = waiting.stage();
        stage.answering += 1;
        stage.head_since = None;
        stage.coming = Coming::body(body);
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

/// A stream that first gives back what was read of it, and ends a read with the request that is being read.
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
        let before = buffer.filled().len();
        if self.read.is_empty() {
            ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        } else {
            let length = self.read.len().min(buffer.remaining());
            buffer.put_slice(&self.read[..length]);
            self.read.advance(length);
        }
        let Some(waiting) = &self.waiting else {
            return Poll::Ready(Ok(()));
        };
        let came = &buffer.filled()[before..];
        if came.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let taken = waiting.received(came);
        if let rest @ [_, ..] = &came[taken..] {
            self.read = [rest, &self.read].concat().into();
            buffer.set_filled(before + taken);
        }
        Poll::Ready(Ok(()))
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
const BUFFER: usize = 32 * 1024;

/// Requests at a time on an HTTP/2 connection. What they hold is small, but a caller may open any number of
/// connections.
const STREAMS: u32 = 16;

const STREAMS_OF_TRUSTED: u32 = 200;

/// The least that HTTP/2 allows for a connection. Bodies are thrown away as they come.
const WINDOW: u32 = 65_535;

const HEAD_TIME: Duration = Duration::from_secs(10);

const CROWDED_TIME: Duration = Duration::from_secs(1);

/// For a request that was sent before the client could know.
const STOPPING_IDLE_TIME: Duration = Duration::from_millis(500);

/// For the last request of a connection: an on-demand refresh takes one second.
const LEAVING_TIME: Duration = Duration::from_secs(5);

/// For the last frames of a connection that is closed.
const FAREWELL: Duration = Duration::from_millis(500);

/// For a client to read its answer and close.
const LINGER_TIME: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use tokio::{
        io::{DuplexStream, duplex},
        time::advance,
    };

    use super::*;

    const NORMAL: Signal = Signal {
        crowded: false,
        stopping: None,
    };

    const CROWDED: Signal = Signal {
        crowded: true,
        stopping: None,
    };

    const IDLE_TIME: Duration = Duration::from_secs(3_900);

    fn waiting() -> Arc<Waiting> {
        Arc::new(Waiting::new(Instant::now()))
    }

    fn answer(waiting: &Arc<Waiting>) {
        drop(Answering::start(waiting, Some(0)));
    }

    /// For how long the client may still keep the connection waiting.
    fn left(waiting: &Waiting, signal: Signal) -> Option<Duration> {
        let ends = waiting.ends(&Limits::of(signal, false, IDLE_TIME))?;
        Some(ends.saturating_duration_since(Instant::now()))
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_head_is_due_from_the_start() {
        let waiting = waiting();
        assert_eq!(left(&waiting, NORMAL), Some(HEAD_TIME));
        advance(Duration::from_secs(4)).await;
        waiting.received(b"G");
        assert_eq!(left(&waiting, NORMAL), Some(Duration::from_secs(6)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_head_is_due_from_its_first_byte() {
        let waiting = waiting();
        let answering = Answering::start(&waiting, Some(0));
        assert_eq!(left(&waiting, NORMAL), None);
        advance(Duration::from_secs(60)).await;
        drop(answering);
        assert_eq!(left(&waiting, NORMAL), Some(IDLE_TIME));

        advance(IDLE_TIME - Duration::from_secs(1)).await;
        waiting.received(b"G");
        assert_eq!(left(&waiting, NORMAL), Some(HEAD_TIME));
        advance(Duration::from_secs(3)).await;
        waiting.received(b"ET ");
        assert_eq!(left(&waiting, NORMAL), Some(Duration::from_secs(7)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_not_the_start_of_a_head() {
        for (body, bytes) in [(Some(4), "{}{}"), (None, "2\r\n{}\r\n0\r\n\r\n")] {
            let waiting = waiting();
            let answering = Answering::start(&waiting, body);
            assert_eq!(waiting.received(bytes.as_bytes()), bytes.len());
            drop(answering);
            assert_eq!(left(&waiting, NORMAL), Some(IDLE_TIME));
            waiting.received(b"G");
            assert_eq!(left(&waiting, NORMAL), Some(HEAD_TIME));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_due_while_any_request_is_answered() {
        let waiting = waiting();
        let first = Answering::start(&waiting, Some(0));
        let second = Answering::start(&waiting, Some(0));
        drop(first);
        assert_eq!(left(&waiting, NORMAL), None);
        drop(second);
        assert_eq!(left(&waiting, NORMAL), Some(IDLE_TIME));
    }

    #[tokio::test(start_paused = true)]
    async fn who_kept_a_crowded_server_waiting_for_a_second_goes() {
        let waiting = waiting();
        assert_eq!(left(&waiting, CROWDED), Some(CROWDED_TIME));
        answer(&waiting);
        advance(Duration::from_secs(20)).await;
        assert_eq!(left(&waiting, CROWDED), Some(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_now_and_then_does_not_prolong_a_head() {
        let waiting = waiting();
        answer(&waiting);
        waiting.received(b"G");
        advance(Duration::from_millis(900)).await;
        waiting.received(b"E");
        assert_eq!(
            left(&waiting, CROWDED),
            Some(CROWDED_TIME - Duration::from_millis(900))
        );
    }

    #[test]
    fn a_trusted_proxy_is_spared_by_a_crowd_and_not_by_the_end() {
        assert!(Limits::leaves(CROWDED, false) && !Limits::leaves(CROWDED, true));
        assert!(!Limits::leaves(NORMAL, false));
        let crowded = Limits::of(CROWDED, true, IDLE_TIME);
        assert_eq!((crowded.idle, crowded.head), (IDLE_TIME, HEAD_TIME));
        let stopping = Signal {
            stopping: Some(Instant::now()),
            ..NORMAL
        };
        assert!(Limits::leaves(stopping, true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_displaced_connection_ends_at_once_unless_it_has_a_request() {
        let waiting = waiting();
        let answering = Answering::start(&waiting, Some(0));
        waiting.displace();
        assert_eq!(left(&waiting, NORMAL), None);
        drop(answering);
        assert_eq!(left(&waiting, NORMAL), Some(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_was_told_to_leave_is_cut_in_the_end() {
        let (sender, signal) = watch::channel(NORMAL);
        let waiting = waiting();
        let mut patience = Patience {
            waiting: Arc::clone(&waiting),
            signal,
            idle_timeout: IDLE_TIME,
            spared: false,
            told: None,
        };
        let _endless = Answering::start(&waiting, Some(0));
        let start = Instant::now();
        let crowd = async {
            advance(Duration::from_secs(100)).await;
            sender.send_replace(CROWDED);
            std::future::pending::<()>().await;
        };
        let endless = pin!(std::future::pending::<()>());
        tokio::select! {
            ended = patiently(endless, &mut patience, |_| {}) => assert_eq!(ended, None),
            () = crowd => {}
        }
        assert_eq!(start.elapsed(), Duration::from_secs(100) + LEAVING_TIME);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_has_a_moment_left_when_the_server_stops() {
        let waiting = waiting();
        answer(&waiting);
        advance(Duration::from_secs(20)).await;
        let stopping = Signal {
            crowded: true,
            stopping: Some(Instant::now()),
        };
        assert_eq!(left(&waiting, stopping), Some(STOPPING_IDLE_TIME));
    }

    fn watched(read: &'static str) -> (Watched, DuplexStream, Arc<Waiting>) {
        let (client, server) = duplex(1024);
        let waiting = waiting();
        let watched = Watched {
            stream: Box::new(server),
            read: Bytes::from_static(read.as_bytes()),
            waiting: Some(Arc::clone(&waiting)),
        };
        (watched, client, waiting)
    }

    async fn read(watched: &mut Watched) -> String {
        let mut bytes = [0; 1024];
        let length = watched.read(&mut bytes).await.unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[tokio::test]
    async fn a_read_ends_with_the_request() {
        const HEAD: &str = "GET / HTTP/1.1\r\n\r\n";
        for ahead in [0, 5, HEAD.len(), 2 * HEAD.len() + 6] {
            let all = "GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n{}GET /";
            let (mut watched, mut client, waiting) = watched(&all[..ahead]);
            client.write_all(&all.as_bytes()[ahead..]).await.unwrap();
            let mut head = String::new();
            while head.len() < HEAD.len() {
                head += &read(&mut watched).await;
            }
            assert_eq!(head, HEAD);
            answer(&waiting);
            let mut head = String::new();
            while head.len() < HEAD.len() {
                head += &read(&mut watched).await;
            }
            assert_eq!(head, HEAD);
            let answering = Answering::start(&waiting, Some(2));
            assert_eq!(read(&mut watched).await, "{}");
            drop(answering);
            assert!(waiting.stage().head_since.is_none());
            assert!("GET /".starts_with(&read(&mut watched).await), "{ahead}");
            assert!(waiting.stage().head_since.is_some());
        }
    }
}
