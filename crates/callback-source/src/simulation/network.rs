//! A network in memory, which replaces hickory's sockets.

use std::{
    cell::RefCell,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use hickory_resolver::net::runtime::{
    DnsUdpSocket, RuntimeProvider, TokioHandle, TokioTime, iocompat::AsyncIoTokioAsStd,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::timeout,
};

/// A network in memory, with its DNS servers.
pub trait Network: Send + Sync {
    /// Delivers a message or a connection to a server. The future returns the bytes of the response or an error, or it
    /// never completes.
    fn send(&self, server: SocketAddr, sent: Sent<'_>) -> Response;
}

/// Message or connection that a server receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent<'a> {
    /// A message over UDP.
    Packet(&'a [u8]),
    /// The start of a TCP connection. The bytes of the response are ignored.
    Connection,
    /// A message over TCP, without its length prefix of two bytes.
    Message(&'a [u8]),
}

/// Future that returns the bytes of a response.
pub type Response = BoxFuture<'static, io::Result<Vec<u8>>>;

/// Sets the network of this thread. `None` removes the network.
pub fn set_network(network: Option<Arc<dyn Network>>) {
    NETWORK.set(network);
}

/// Provider of simulated sockets, which replaces hickory's provider.
#[derive(Clone)]
pub(crate) struct Provider {
    network: Option<Arc<dyn Network>>,
    handle: TokioHandle,
}

impl Default for Provider {
    fn default() -> Self {
        Self {
            network: NETWORK.with_borrow(Clone::clone),
            handle: TokioHandle::default(),
        }
    }
}

impl Provider {
    fn network(&self) -> io::Result<Arc<dyn Network>> {
        let network = self.network.clone();
        network.ok_or_else(|| io::ErrorKind::NetworkUnreachable.into())
    }
}

impl RuntimeProvider for Provider {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = Udp;
    type Tcp = AsyncIoTokioAsStd<Tcp>;

    fn create_handle(&self) -> Self::Handle {
        self.handle.clone()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        _: Option<SocketAddr>,
        time_limit: Option<Duration>,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Self::Tcp>>>> {
        let network = self.network();
        Box::pin(async move {
            let network = network?;
            let connecting = network.send(server, Sent::Connection);
            timeout(time_limit.unwrap_or(Duration::MAX), connecting)
                .await
                .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            Ok(AsyncIoTokioAsStd(Tcp {
                network,
                server,
                written: Vec::new(),
                response: Mutex::default(),
                unread: Vec::new(),
            }))
        })
    }

    fn bind_udp(
        &self,
        _: SocketAddr,
        _: SocketAddr,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Self::Udp>>>> {
        let network = self.network();
        Box::pin(async move {
            Ok(Udp {
                network: network?,
                sent: Mutex::default(),
            })
        })
    }
}

/// A UDP socket for a single message, since hickory sends only one message over each socket.
pub(crate) struct Udp {
    network: Arc<dyn Network>,
    sent: Mutex<Option<(SocketAddr, Response)>>,
}

impl DnsUdpSocket for Udp {
    type Time = TokioTime;

    fn poll_recv_from(
        &self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        let mut sent = lock(&self.sent);
        let Some((server, response)) = &mut *sent else {
            return Poll::Pending;
        };
        let Poll::Ready(received) = response.as_mut().poll(cx) else {
            return Poll::Pending;
        };
        let server = *server;
        // A socket receives only one response.
        *sent = None;
        let received = received?;
        // Bytes that do not fit into `buf` are dropped.
        let length = received.len().min(buf.len());
        buf[..length].copy_from_slice(&received[..length]);
        Poll::Ready(Ok((length, server)))
    }

    fn poll_send_to(
        &self,
        _: &mut Context<'_>,
        buf: &[u8],
        target: SocketAddr,
    ) -> Poll<io::Result<usize>> {
        let response = self.network.send(target, Sent::Packet(buf));
        *lock(&self.sent) = Some((target, response));
        Poll::Ready(Ok(buf.len()))
    }
}

/// A TCP connection for a single question, since the library sends only one question over each connection.
pub(crate) struct Tcp {
    network: Arc<dyn Network>,
    server: SocketAddr,
    written: Vec<u8>,
    response: Mutex<Option<Response>>,
    unread: Vec<u8>,
}

impl AsyncWrite for Tcp {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.written.extend_from_slice(buf);
        if let Some((length, message)) = self.written.split_first_chunk::<2>()
            && usize::from(u16::from_be_bytes(*length)) <= message.len()
        {
            let response = self.network.send(self.server, Sent::Message(message));
            *lock(&self.response) = Some(response);
            self.written.clear();
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Tcp {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            let mut response = lock(&self.response);
            let Some(Poll::Ready(received)) =
                response.as_mut().map(|response| response.as_mut().poll(cx))
            else {
                return Poll::Pending;
            };
            *response = None;
            drop(response);
            let message = received?;
            let length = u16::try_from(message.len()).map_err(io::Error::other)?;
            self.unread = [length.to_be_bytes().as_slice(), &message].concat();
        }
        let length = self.unread.len().min(buf.remaining());
        buf.put_slice(&self.unread[..length]);
        self.unread.drain(..length);
        Poll::Ready(Ok(()))
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    static NETWORK: RefCell<Option<Arc<dyn Network>>> = const { RefCell::new(None) };
}
