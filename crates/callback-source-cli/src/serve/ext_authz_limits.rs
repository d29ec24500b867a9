//! Limits of the ext_authz listener on the number of checks and on the bytes of messages.
//!
//! The peers are the merchant's Envoys. Unlike the main listener, this listener therefore does not displace
//! connections. But callers determine the number of checks and the length of the messages, and an Envoy may hang. A
//! check above a limit fails with a gRPC error. Envoy then responds with its `status_on_error`, unless
//! `failure_mode_allow` is set.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep_until},
};
use tonic::{Status, transport::server::Connected};
use tracing::warn;

use super::peer;
use crate::log::OncePerMinute;

/// Limits that all connections share.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    checks: Arc<Semaphore>,
    message_bytes: Arc<Semaphore>,
    warnings: Arc<OncePerMinute>,
}

impl Limits {
    pub(super) fn new(checks: usize, message_bytes: usize) -> Self {
        Self {
            checks: Arc::new(Semaphore::new(checks)),
            message_bytes: Arc::new(Semaphore::new(message_bytes)),
            warnings: Arc::default(),
        }
    }

    /// Returns a permit for a check. The check keeps the permit until its response is ready.
    pub(super) fn check(&self) -> Result<OwnedSemaphorePermit, Status> {
        let permit = Arc::clone(&self.checks).try_acquire_owned();
        permit.map_err(|_| self.exhausted("too many checks at a time"))
    }

    /// Wraps a body. Until the body is dropped, its message is charged to the limit on the bytes of all messages.
    pub(super) fn message<B>(&self, body: B) -> Message<B> {
        Message {
            body,
            limits: self.clone(),
            received: 0,
            prefix: [0; PREFIX],
            charged: None,
        }
    }

    fn charge(&self, length: u32) -> Result<OwnedSemaphorePermit, Status> {
        let permit = Arc::clone(&self.message_bytes).try_acquire_many_owned(length);
        permit.map_err(|_| self.exhausted("too many bytes of messages at a time"))
    }

    fn exhausted(&self, limit: &'static str) -> Status {
        if self.warnings.admits(Instant::now()) {
            warn!("checks of Envoy end with an error: {limit}");
        }
        Status::resource_exhausted(limit)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::new(MAX_CHECKS, MAX_MESSAGE_BYTES)
    }
}

/// Body of a check. The message is charged once its length has arrived, because tonic reserves memory for the message
/// before the rest has arrived.
#[derive(Debug)]
pub(super) struct Message<B> {
    body: B,
    limits: Limits,
    received: usize,
    prefix: [u8; PREFIX],
    charged: Option<OwnedSemaphorePermit>,
}

impl<B> Message<B> {
    fn receive(&mut self, data: &[u8]) -> Result<(), Status> {
        let missing = PREFIX.saturating_sub(self.received).min(data.len());
        let (prefix, _) = data.split_at(missing);
        self.prefix[self.received.min(PREFIX)..][..missing].copy_from_slice(prefix);
        self.received += data.len();
        let [_, length @ ..] = self.prefix;
        let length = u32::from_be_bytes(length);
        if self.received >= PREFIX && self.charged.is_none() {
            if length > MAX_MESSAGE {
                return Err(Status::resource_exhausted("the message is too long"));
            }
            self.charged = Some(self.limits.charge(length)?);
        }
        let end = PREFIX + usize::try_from(length).unwrap_or(usize::MAX - PREFIX);
        match self.received > end && self.charged.is_some() {
            true => Err(Status::invalid_argument("a check has a single message")),
            false => Ok(()),
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Message<B>
where
    B::Error: Into<tonic::codegen::StdError>,
{
    type Data = Bytes;
    type Error = tonic::codegen::StdError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        let frame = frame.map(|frame| {
            let frame = frame.map_err(Into::into)?;
            if let Some(data) = frame.data_ref() {
                this.receive(data)?;
            }
            Ok(frame)
        });
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Connection with its permit. If its client sends nothing in time, the connection is closed. Later, the pings of
/// HTTP/2 detect a client that has disappeared.
#[derive(Debug)]
pub(super) struct Connection {
    stream: peer::Stream,
    first_byte: Option<Pin<Box<Sleep>>>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    pub(super) fn new(stream: peer::Stream, permit: OwnedSemaphorePermit) -> Self {
        let deadline = Instant::now() + FIRST_BYTE_TIME;
        Self {
            stream,
            first_byte: Some(Box::pin(sleep_until(deadline))),
            _permit: permit,
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(cx, buffer) {
            Poll::Ready(read) => {
                self.first_byte = None;
                Poll::Ready(read)
            }
            Poll::Pending => match &mut self.first_byte {
                Some(alarm) => alarm
                    .as_mut()
                    .poll(cx)
                    .map(|()| Err(io::ErrorKind::TimedOut.into())),
                None => Poll::Pending,
            },
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
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
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Maximum number of concurrent checks, the same as the default for connections to the main listener. A check is short,
/// unless it waits for an on-demand refresh.
const MAX_CHECKS: usize = 10_000;

/// Maximum total size of the messages that are being received, in bytes.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Maximum size of a message in bytes, the same as tonic's. With a smaller limit, a check that includes the body of a
/// callback could be refused.
const MAX_MESSAGE: u32 = 4 << 20;

/// Size of the prefix of a message in bytes: a flag and the length.
const PREFIX: usize = 5;

/// Time limit for the first byte of a connection, as for the first head on the main listener.
const FIRST_BYTE_TIME: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full, StreamBody};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tonic::Code;

    use super::*;

    fn message(announced: u32, content: &[u8]) -> Bytes {
        let mut bytes = vec![0];
        bytes.extend(announced.to_be_bytes());
        bytes.extend(content);
        bytes.into()
    }

    fn code(error: tonic::codegen::StdError) -> Code {
        error.downcast::<Status>().unwrap().code()
    }

    #[tokio::test]
    async fn a_message_is_charged_until_its_body_is_dropped() {
        let limits = Limits::new(1, 10);
        let content = message(6, b"abcdef");
        let mut first = limits.message(Full::new(content.clone()));
        assert!(first.frame().await.unwrap().is_ok());
        let second = limits.message(Full::new(content.clone())).collect().await;
        assert_eq!(second.map_err(code).unwrap_err(), Code::ResourceExhausted);
        drop(first);
        assert!(limits.message(Full::new(content)).collect().await.is_ok());
        assert_eq!(limits.message_bytes.available_permits(), 10);
    }

    #[tokio::test]
    async fn an_announced_message_is_charged_before_it_comes() {
        let limits = Limits::new(1, 10);
        let bytes = message(6, b"");
        let frames = bytes
            .iter()
            .map(|byte| Ok::<_, Status>(Frame::data(vec![*byte].into())))
            .collect::<Vec<_>>();
        let mut body = limits.message(StreamBody::new(futures_util::stream::iter(frames)));
        while body.frame().await.is_some() {}
        assert_eq!(limits.message_bytes.available_permits(), 4);
    }

    #[tokio::test]
    async fn a_second_or_a_longer_message_is_refused() {
        let limits = Limits::default();
        let longer = Full::new(message(6, b"abcdefg"));
        let error = limits.message(longer).collect().await.map_err(code);
        assert_eq!(error.unwrap_err(), Code::InvalidArgument);
        let longest = Full::new(message(MAX_MESSAGE + 1, b""));
        let error = limits.message(longest).collect().await.map_err(code);
        assert_eq!(error.unwrap_err(), Code::ResourceExhausted);
        assert_eq!(limits.message_bytes.available_permits(), MAX_MESSAGE_BYTES);
    }

    #[test]
    fn a_check_above_the_limit_is_an_error() {
        let limits = Limits::new(1, 1);
        let permit = limits.check().unwrap();
        assert_eq!(limits.check().unwrap_err().code(), Code::ResourceExhausted);
        drop(permit);
        assert!(limits.check().is_ok());
    }

    fn connection(stream: tokio::io::DuplexStream) -> (Connection, Arc<Semaphore>) {
        let permits = Arc::new(Semaphore::new(1));
        let permit = Arc::clone(&permits).try_acquire_owned().unwrap();
        (Connection::new(Box::new(stream), permit), permits)
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_ends_and_frees_its_permit() {
        let (_client, server) = duplex(8);
        let (mut connection, permits) = connection(server);
        let start = Instant::now();
        let error = connection.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed(), FIRST_BYTE_TIME);
        drop(connection);
        assert_eq!(permits.available_permits(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_has_sent_something_may_be_silent() {
        let (mut client, server) = duplex(8);
        let (mut connection, _permits) = connection(server);
        client.write_u8(1).await.unwrap();
        assert_eq!(connection.read_u8().await.unwrap(), 1);
        let silent = tokio::time::timeout(10 * FIRST_BYTE_TIME, connection.read_u8());
        assert!(silent.await.is_err());
    }
}
