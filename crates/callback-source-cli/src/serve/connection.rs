//! Serves a connection from its first byte to its end.
//!
//! The steps are the PROXY header (from a trusted proxy), the detection of the protocol, the requests, and the close.
//! One time limit covers everything up to the end of the first head, so that a silent client cannot get a new time
//! limit with each step.
//!
//! The close is a separate step. If a socket is closed with unread bytes, the connection is reset, and the reset can
//! destroy the response that was just sent. The client would then see a network error in place of a refusal.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use http::{HeaderValue, Request, Version, header};
use http_body::Body as _;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
    time::timeout,
};
use tracing::debug;

use super::{
    app::App,
    deadline::{Deadline, until_deadline},
    endpoint::Endpoint,
    idle::{InFlight, Limits, ListenerState},
    listener::Accepted,
    metrics::OpenConnection,
    peer::Stream,
    permits::Permit,
    protocol::{Protocol, protocol},
    replay_stream::ReplayStream,
};

/// Settings that the connections of a listener share.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) app: Arc<App>,
    pub(super) endpoint: Endpoint,
    /// Maximum idle time of a connection.
    pub(super) idle_timeout: Duration,
}

/// Serves a connection to its end.
pub(super) async fn serve(
    accepted: Accepted,
    mut permit: Permit,
    settings: Settings,
    listener: watch::Receiver<ListenerState>,
) {
    let Accepted {
        mut stream,
        mut peer,
        proxy,
        ..
    } = accepted;
    let _open = OpenConnection::new();
    let timer = Arc::clone(permit.timer());
    let mut deadline = Deadline {
        timer: Arc::clone(&timer),
        listener,
        idle_timeout: settings.idle_timeout,
        spared: permit.is_spared(),
        last_request_since: None,
    };
    let ahead = match proxy {
        Some(proxy) => {
            let header =
                until_deadline(pin!(proxy.read_header(&mut stream)), &mut deadline, |_| {}).await;
            let Some(Ok((client, ahead))) = header else {
                return;
            };
            peer = client;
            permit.set_owner(proxy.owner(client));
            // A crowded listener spares the proxy, but not the client that the proxy names.
            deadline.spared = permit.is_spared();
            ahead
        }
        None => Vec::new(),
    };
    let opening = until_deadline(pin!(protocol(&mut stream, ahead)), &mut deadline, |_| {}).await;
    let Some(Ok((protocol, read))) = opening else {
        return;
    };
    let spared = deadline.spared;
    let mut replayed = ReplayStream {
        stream,
        read,
        timer: (protocol == Protocol::Http1).then(|| Arc::clone(&timer)),
    };

    let listener = deadline.listener.clone();
    let service = service_fn(|request: Request<Incoming>| {
        let Settings { app, endpoint, .. } = settings.clone();
        let in_flight = InFlight::start(&timer, request.body().size_hint().exact());
        let (listener, timer) = (listener.clone(), Arc::clone(&timer));
        async move {
            let version = request.version();
            let (mut response, body_is_whole) = app.respond(endpoint, peer, request).await;
            let is_last =
                timer.is_displaced() || Limits::closes_after_response(*listener.borrow(), spared);
            if version < Version::HTTP_2 && (is_last || !body_is_whole) {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
                if version == Version::HTTP_10 {
                    // hyper may add `keep-alive` to an HTTP/1.1 response to an HTTP/1.0 request.
                    *response.version_mut() = Version::HTTP_10;
                }
            }
            drop(in_flight);
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
                    .serve_connection(TokioIo::new(&mut replayed), service);
                // When the server stops, it does not close an idle connection at once: the next request may already
                // have been sent. That request is the last request of the connection.
                until_deadline(pin!(connection), &mut deadline, |_| {}).await
            };
            if let Some(end) = ended {
                log_end(end);
                timer.start_linger();
                let linger = timeout(LINGER_TIME, linger(&mut replayed.stream));
                until_deadline(pin!(linger), &mut deadline, |_| {}).await;
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
                // A proxy sends the requests of many callers over one connection. Requests that wait for an on-demand
                // refresh must leave room for requests of the provider's servers. Cancelled or malformed requests of
                // one caller must not end the connection.
                builder
                    .max_concurrent_streams(TRUSTED_STREAMS)
                    .max_pending_accept_reset_streams(TRUSTED_STREAMS as usize)
                    .max_local_error_reset_streams(None);
            }
            let connection = builder.serve_connection(TokioIo::new(replayed), service);
            let mut connection = pin!(connection);
            let ended = until_deadline(connection.as_mut(), &mut deadline, |connection| {
                connection.graceful_shutdown();
            });
            match ended.await {
                Some(end) => log_end(end),
                None => {
                    connection.as_mut().graceful_shutdown();
                    // If another connection waits for this permit, there is a single attempt to write the last frames.
                    let limit = match timer.is_displaced() {
                        true => Duration::ZERO,
                        false => LAST_FRAMES_TIME,
                    };
                    if let Ok(end) = timeout(limit, connection).await {
                        log_end(end);
                    }
                }
            }
        }
    }
}

fn log_end(end: hyper::Result<()>) {
    if let Err(error) = end {
        debug!(%error, "connection ended");
    }
}

/// Reads until the client has closed its side of the connection.
///
/// A socket that is closed with unread bytes, or receives bytes after the close, resets the connection. The reset can
/// overtake the response. A client that still sends its body would then never read why it is refused.
async fn linger(stream: &mut Stream) {
    if stream.shutdown().await.is_ok() {
        let mut bytes = vec![0; 4 * 1024];
        while let Ok(1..) = stream.read(&mut bytes).await {}
    }
}

/// Maximum size of the head of a request, in bytes. A request with a larger head receives 431.
const HEAD_SIZE: usize = 16 * 1024;
const HEAD_LIST_SIZE: u32 = 16 * 1024;
const HEAD_LINES: usize = 512;
const BUFFER: usize = 32 * 1024;

/// Maximum number of concurrent requests on an HTTP/2 connection, except for trusted proxies. Each request needs little
/// memory, but a caller can open many connections.
const STREAMS: u32 = 16;

const TRUSTED_STREAMS: u32 = 200;

/// Flow-control window of a connection and of each stream, in bytes: the default of HTTP/2. Bodies are discarded as
/// they arrive.
const WINDOW: u32 = 65_535;

/// Time limit for the last frames of a connection.
const LAST_FRAMES_TIME: Duration = Duration::from_millis(500);

/// Time limit for a client to read its response and close the connection.
const LINGER_TIME: Duration = Duration::from_secs(2);
