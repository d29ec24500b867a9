//! A connection, served to its end.

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
    endpoint::Door,
    idle::{Answering, Limits, Signal},
    listener::Arrived,
    patience::{Patience, patiently},
    peer::Stream,
    permits::Place,
    protocol::{Protocol, protocol},
    replay_stream::Watched,
};

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

/// For the last frames of a connection that is closed.
const FAREWELL: Duration = Duration::from_millis(500);

/// For a client to read its answer and close.
const LINGER_TIME: Duration = Duration::from_secs(2);
