//! A connection whose header has been read.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pin_project! {
    /// A connection whose PROXY protocol header has been read. See the [module docs](super) for an example.
    #[derive(Debug)]
    pub struct ProxiedStream<I> {
        #[pin]
        io: I,
        // Bytes that were read together with the header. The next byte to return comes first.
        ahead: VecDeque<u8>,
    }
}

impl<I> ProxiedStream<I> {
    pub(super) fn new(io: I, ahead: Vec<u8>) -> Self {
        let ahead = ahead.into();
        Self { io, ahead }
    }

    /// Returns the connection itself, for example to set its options.
    pub fn get_ref(&self) -> &I {
        &self.io
    }
}

impl<I: AsyncRead> AsyncRead for ProxiedStream<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.project();
        if this.ahead.is_empty() {
            return this.io.poll_read(cx, buf);
        }
        let (next, _) = this.ahead.as_slices();
        let taken = next.len().min(buf.remaining());
        buf.put_slice(&next[..taken]);
        this.ahead.drain(..taken);
        if this.ahead.is_empty() {
            *this.ahead = VecDeque::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite> AsyncWrite for ProxiedStream<I> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.project().io.poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().io.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().io.poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.project().io.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
