//! Stream whose reads end with the current request of an HTTP/1 connection.
//!
//! hyper never receives a byte beyond this request. Otherwise, hyper could keep the first half of the next head in its
//! own buffer, and the timer would not record that a head has begun.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{idle::IdleTimer, peer::Stream};

/// Stream that first replays bytes that were already read. With a timer, no read returns bytes beyond the current
/// request.
#[derive(Debug)]
pub(super) struct ReplayStream {
    pub(super) stream: Stream,
    pub(super) read: Bytes,
    /// `None` for HTTP/2, where a byte need not be part of a request: it may be part of a ping.
    pub(super) timer: Option<Arc<IdleTimer>>,
}

impl AsyncRead for ReplayStream {
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
        let Some(timer) = &self.timer else {
            return Poll::Ready(Ok(()));
        };
        let received = &buffer.filled()[before..];
        if received.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let length = timer.received(received);
        if let rest @ [_, ..] = &received[length..] {
            self.read = [rest, &self.read].concat().into();
            buffer.set_filled(before + length);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ReplayStream {
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

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        time::Instant,
    };

    use super::*;
    use crate::serve::idle::InFlight;

    fn replayed(read: &'static str) -> (ReplayStream, DuplexStream, Arc<IdleTimer>) {
        let (client, server) = duplex(1024);
        let timer = Arc::new(IdleTimer::new(Instant::now()));
        let replayed = ReplayStream {
            stream: Box::new(server),
            read: Bytes::from_static(read.as_bytes()),
            timer: Some(Arc::clone(&timer)),
        };
        (replayed, client, timer)
    }

    async fn read(replayed: &mut ReplayStream) -> String {
        let mut bytes = [0; 1024];
        let length = replayed.read(&mut bytes).await.unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[tokio::test]
    async fn a_read_ends_with_the_request() {
        const HEAD: &str = "GET / HTTP/1.1\r\n\r\n";
        for ahead in [0, 5, HEAD.len(), 2 * HEAD.len() + 6] {
            let all = "GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n{}GET /";
            let (mut replayed, mut client, timer) = replayed(&all[..ahead]);
            client.write_all(&all.as_bytes()[ahead..]).await.unwrap();
            let mut head = String::new();
            while head.len() < HEAD.len() {
                head += &read(&mut replayed).await;
            }
            assert_eq!(head, HEAD);
            drop(InFlight::start(&timer, Some(0)));
            let mut head = String::new();
            while head.len() < HEAD.len() {
                head += &read(&mut replayed).await;
            }
            assert_eq!(head, HEAD);
            let in_flight = InFlight::start(&timer, Some(2));
            assert_eq!(read(&mut replayed).await, "{}");
            drop(in_flight);
            assert!(!timer.head_has_begun());
            assert!("GET /".starts_with(&read(&mut replayed).await), "{ahead}");
            assert!(timer.head_has_begun());
        }
    }
}
