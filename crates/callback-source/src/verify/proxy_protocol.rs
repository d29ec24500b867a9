//! The PROXY protocol, versions 1 and 2: the client of a connection as a proxy in front of it names it.
//!
//! Proxies that forward bytes, not requests (HAProxy in `mode tcp`, nginx `stream`, AWS NLB), cannot
//! write HTTP headers. They say who the client is in a header before the first byte of the connection
//! ([specification](https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt)).
//! [`ProxyProtocolListener`] reads it and gives the client's address to axum as the peer of the
//! connection:
//!
//! 1. A peer that is not [trusted](TrustedProxies) is the client itself, and its bytes are not looked at:
//!    a header that it sends is the start of a malformed request.
//! 2. A trusted peer must send a header, of either version, within 5 s. The connection is closed, and
//!    an event says why, when there is none, or it is malformed, longer than 107 bytes (version 1) or
//!    4,096 bytes (version 2), or names a client that cannot be one: a Unix socket, a datagram, an
//!    unspecified, multicast or broadcast address.
//! 3. With `LOCAL` (version 2), `UNKNOWN` (version 1) or the unspecified family the proxy speaks for
//!    itself, as in its health checks: the peer is the proxy. What else such a header says is not
//!    looked at, and neither are the type-length-value fields of any header.
//! 4. Headers are read beside accepting, so that a silent peer holds up nobody. Of 1,024 connections
//!    whose header is outstanding, the oldest is closed for a new one.
//!
//! The verdict sees the one address that comes out of this. With [`ConnectInfoPeer`] it is judged as it
//! is, and no HTTP header is read.
//!
//! ```
//! # use std::error::Error;
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn Error>> {
//! use std::net::SocketAddr;
//! use axum::{Router, routing::post, serve::ListenerExt};
//! use callback_source::{AllowList, Allowed};
//! use callback_source::verify::{
//!     ConnectInfoPeer, ProxyProtocolListener, TrustedProxies, VerifySourceLayer,
//! };
//! use tokio::net::TcpListener;
//! # use tokio::{io::{AsyncReadExt, AsyncWriteExt}, net::TcpStream};
//!
//! let app = Router::new()
//!     .route("/callback", post(async |caller: Allowed| caller.peer().to_string()))
//!     .layer(VerifySourceLayer::rejecting(
//!         AllowList::fixed(["192.0.2.1".parse()?]),
//!         ConnectInfoPeer,
//!     ));
//! let proxies = TrustedProxies::new(["127.0.0.1/32".parse()?])?;
//! let listener = ProxyProtocolListener::new(TcpListener::bind("127.0.0.1:0").await?, proxies);
//! # let server = axum::serve::Listener::local_addr(&listener)?;
//! // axum takes a `SocketAddr` from a listener that is not its own only through `tap_io`.
//! let listener = listener.tap_io(|stream| drop(stream.get_ref().set_nodelay(true)));
//! # tokio::spawn(async move {
//! axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await?;
//! # Ok::<_, std::io::Error>(())
//! # });
//! # for (client, status) in [("192.0.2.1", "200"), ("192.0.2.2", "403")] {
//! #     let mut proxy = TcpStream::connect(server).await?;
//! #     let sent = format!(
//! #         "PROXY TCP4 {client} 192.0.2.80 4711 443\r\nPOST /callback HTTP/1.1\r\n\
//! #          Host: shop.test\r\nConnection: close\r\n\r\n",
//! #     );
//! #     proxy.write_all(sent.as_bytes()).await?;
//! #     let mut answer = String::new();
//! #     proxy.read_to_string(&mut answer).await?;
//! #     assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
//! # }
//! # Ok(())
//! # }
//! ```
//!
//! # Deployment caveat
//!
//! A proxy that forwards bytes and is *not* told to send the header (`send-proxy` in HAProxy) passes on
//! the client's bytes, and with them a header that the client wrote. Trust an address only when
//! everything that connects from it sends the header itself.
//!
//! [`ConnectInfoPeer`]: super::ConnectInfoPeer

use std::{
    collections::VecDeque,
    fmt, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::serve::Listener;
use pin_project_lite::pin_project;
use ppp::{v1, v2};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    task::{AbortHandle, JoinSet},
    time::{Instant, timeout},
};

use super::{TrustedProxies, forwarded::usable_client};
use crate::rate_limit::PeerRateLimit;

/// A listener whose connections come from the client that a trusted proxy names. See the
/// [module docs](self) for the rules and an example.
pub struct ProxyProtocolListener<L: Listener> {
    listener: L,
    proxies: TrustedProxies,
    header_timeout: Duration,
    required: bool,
    log: Arc<PeerRateLimit>,
    /// Connections whose header is being read, and the same ones in the order of their arrival.
    pending: JoinSet<Option<Connection<L::Io>>>,
    arrived: VecDeque<AbortHandle>,
}

type Connection<I> = (ProxiedStream<I>, SocketAddr);

impl<L: Listener<Addr = SocketAddr>> ProxyProtocolListener<L> {
    /// Reads the header of connections from these proxies.
    ///
    /// Accepting must be something that can be given up and begun again, as with tokio's
    /// `TcpListener`.
    pub fn new(listener: L, proxies: TrustedProxies) -> Self {
        Self {
            listener,
            proxies,
            header_timeout: HEADER_TIMEOUT,
            required: true,
            log: Arc::new(PeerRateLimit::new(Instant::now())),
            pending: JoinSet::new(),
            arrived: VecDeque::new(),
        }
    }

    /// How long a trusted proxy may take to send its header; 5 s unless set.
    #[must_use]
    pub fn header_timeout(mut self, limit: Duration) -> Self {
        self.header_timeout = limit;
        self
    }

    /// Also takes connections of trusted proxies that do not begin with a header; the proxy is then
    /// the peer.
    ///
    /// It is insecure where a proxy that sends no header forwards bytes: the client then sends one, and
    /// is who it likes to be.
    #[must_use]
    pub fn insecure_header_optional(mut self) -> Self {
        self.required = false;
        self
    }

    fn read_header(&mut self, mut io: L::Io, peer: SocketAddr) {
        if self.pending.len() >= MAX_PENDING {
            self.close_oldest();
        }
        let (limit, required, log) = (self.header_timeout, self.required, self.log.clone());
        let reading = self.pending.spawn(async move {
            let read = timeout(limit, read_header(&mut io, required)).await;
            let read = read.unwrap_or(Err(Unread::TimedOut));
            let outcome = match &read {
                Ok((None, _)) => Ok("none"),
                Ok((Some(header), _)) => Ok(header.client().map_or("local", |_| "client")),
                // Some load balancers look whether the port is open.
                Err(Unread::Closed(0)) => Ok("closed"),
                Err(unread) => Err(unread.as_str()),
            };
            let proxy = peer.ip().to_canonical();
            super::log::proxy_header(outcome, proxy, &log, Instant::now());
            let (header, ahead) = read.ok()?;
            let client = header.and_then(|header| header.client()).unwrap_or(peer);
            Some((ProxiedStream::new(io, ahead), client))
        });
        // A handle keeps the memory of its task.
        if self.arrived.len() >= 2 * MAX_PENDING {
            self.arrived.retain(|reading| !reading.is_finished());
        }
        self.arrived.push_back(reading);
    }

    fn close_oldest(&mut self) {
        while let Some(oldest) = self.arrived.pop_front() {
            if !oldest.is_finished() {
                return oldest.abort();
            }
        }
    }
}

impl<L: Listener<Addr = SocketAddr>> Listener for ProxyProtocolListener<L> {
    type Io = ProxiedStream<L::Io>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            tokio::select! {
                biased;
                // One that was closed, for whatever reason, leaves nothing behind.
                Some(read) = self.pending.join_next() => {
                    if let Ok(Some(connection)) = read {
                        return connection;
                    }
                }
                (io, peer) = self.listener.accept() => {
                    if !self.proxies.contains(peer.ip()) {
                        return (ProxiedStream::new(io, Vec::new()), peer);
                    }
                    self.read_header(io, peer);
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl<L: Listener + fmt::Debug> fmt::Debug for ProxyProtocolListener<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyProtocolListener")
            .field("listener", &self.listener)
            .field("proxies", &self.proxies)
            .field("header_timeout", &self.header_timeout)
            .field("required", &self.required)
            .field("pending", &self.pending.len())
            .finish_non_exhaustive()
    }
}

/// Why there is no header; the connection is closed.
#[derive(Debug)]
enum Unread {
    Header(HeaderError),
    /// After so many bytes.
    Closed(usize),
    TimedOut,
}

impl Unread {
    fn as_str(&self) -> &'static str {
        match self {
            Self::Header(error) => error.as_str(),
            Self::Closed(_) => "closed",
            Self::TimedOut => "timed-out",
        }
    }
}

/// The header, and what came behind it.
async fn read_header(
    io: &mut (impl AsyncRead + Unpin),
    required: bool,
) -> Result<(Option<Header>, Vec<u8>), Unread> {
    let mut ahead = Vec::new();
    match Header::read(io, &mut ahead).await {
        Ok(Ok(header)) => Ok((Some(header), ahead)),
        Ok(Err(HeaderError::Missing)) if !required => Ok((None, ahead)),
        Ok(Err(error)) => Err(Unread::Header(error)),
        // Where the connection breaks is no different from where it ends.
        Err(_) => Err(Unread::Closed(ahead.len())),
    }
}

/// What a header of the PROXY protocol says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    client: Option<SocketAddr>,
    len: usize,
}

impl Header {
    /// Reads the header at the start of a connection; `None` when more bytes are needed.
    ///
    /// ```
    /// use callback_source::verify::proxy_protocol::{Header, HeaderError};
    ///
    /// let bytes = b"PROXY TCP4 192.0.2.1 192.0.2.80 4711 443\r\nGET / HTTP/1.1\r\n";
    /// let header = Header::parse(bytes)?.expect("complete");
    /// assert_eq!(header.client(), Some("192.0.2.1:4711".parse().unwrap()));
    /// assert_eq!(&bytes[header.length()..], b"GET / HTTP/1.1\r\n");
    ///
    /// assert_eq!(Header::parse(b"PROXY TCP4 192.0.2.1"), Ok(None));
    /// assert_eq!(Header::parse(b"GET / HTTP/1.1\r\n"), Err(HeaderError::Missing));
    /// # Ok::<_, HeaderError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Bytes that do not begin with a header, or with one that cannot be taken. More bytes do not
    /// change that.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, HeaderError> {
        if bytes.starts_with(v2::PROTOCOL_PREFIX) {
            return Self::parse_v2(bytes);
        }
        if bytes.starts_with(V1_PREFIX) {
            return Self::parse_v1(bytes);
        }
        if v2::PROTOCOL_PREFIX.starts_with(bytes) || V1_PREFIX.starts_with(bytes) {
            return Ok(None);
        }
        Err(HeaderError::Missing)
    }

    /// Reads the header from the start of a connection, for servers that are not axum's. What came
    /// behind it is in `ahead` then; what `ahead` holds at first counts as read already.
    ///
    /// Only for connections whose peer is one of the [`TrustedProxies`]: anybody else would name whom he
    /// likes. A connection without a good header has to be closed; one that ends with nothing in
    /// `ahead` was a look at whether the port is open. There is no time limit: set one around it, since a
    /// proxy can fall silent.
    ///
    /// # Errors
    ///
    /// Those of the connection; one that ends before the header does is an
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof). Within, those of [`parse`](Self::parse).
    pub async fn read(
        io: &mut (impl AsyncRead + Unpin),
        ahead: &mut Vec<u8>,
    ) -> io::Result<Result<Self, HeaderError>> {
        ahead.reserve(USUAL_LENGTH);
        loop {
            match Self::parse(ahead) {
                Ok(Some(header)) => {
                    ahead.drain(..header.len);
                    return Ok(Ok(header));
                }
                Ok(None) => {}
                Err(error) => return Ok(Err(error)),
            }
            if io.read_buf(ahead).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    // The parsers get whole headers only: what is cut off, and where it ends, is decided here.
    fn parse_v2(bytes: &[u8]) -> Result<Option<Self>, HeaderError> {
        let Some(fixed) = bytes.first_chunk::<V2_FIXED>() else {
            return Ok(None);
        };
        let len = V2_FIXED + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
        if len > V2_LONGEST {
            return Err(HeaderError::TooLong);
        }
        let Some(header) = bytes.get(..len) else {
            return Ok(None);
        };
        // The family and the length of its addresses mean nothing here (section 2.2), to the parser
        // they do.
        if header[12] == V2_LOCAL {
            return Ok(Some(Self { client: None, len }));
        }
        let header = v2::Header::try_from(header).map_err(|_| HeaderError::Malformed)?;
        let client = match (header.protocol, header.addresses) {
            (v2::Protocol::Unspecified, v2::Addresses::Unspecified) => None,
            (v2::Protocol::Stream, v2::Addresses::IPv4(v4)) => {
                Some(client(v4.source_address, v4.source_port)?)
            }
            (v2::Protocol::Stream, v2::Addresses::IPv6(v6)) => {
                Some(client(v6.source_address, v6.source_port)?)
            }
            _ => return Err(HeaderError::NoAddress),
        };
        Ok(Some(Self { client, len }))
    }

    fn parse_v1(bytes: &[u8]) -> Result<Option<Self>, HeaderError> {
        let line = &bytes[..bytes.len().min(V1_LONGEST)];
        let Some(end) = line.iter().position(|byte| *byte == b'\n') else {
            return match line.len() {
                V1_LONGEST => Err(HeaderError::TooLong),
                _ => Ok(None),
            };
        };
        let line = &line[..=end];
        let header = v1::Header::try_from(line).map_err(|_| HeaderError::Malformed)?;
        if header.header.len() != line.len() {
            return Err(HeaderError::Malformed);
        }
        let client = match header.addresses {
            v1::Addresses::Unknown => None,
            v1::Addresses::Tcp4(v4) => Some(client(v4.source_address, v4.source_port)?),
            v1::Addresses::Tcp6(v6) => Some(client(v6.source_address, v6.source_port)?),
        };
        let len = line.len();
        Ok(Some(Self { client, len }))
    }

    /// The client in canonical form; `None` when the proxy speaks for itself.
    #[must_use]
    pub fn client(&self) -> Option<SocketAddr> {
        self.client
    }

    /// How many bytes the header takes up.
    #[must_use]
    pub fn length(&self) -> usize {
        self.len
    }
}

fn client(address: impl Into<IpAddr>, port: u16) -> Result<SocketAddr, HeaderError> {
    let address = usable_client(address.into()).ok_or(HeaderError::NoAddress)?;
    Ok(SocketAddr::new(address, port))
}

/// Why bytes are no header of the PROXY protocol that can be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// They begin in another way.
    #[error("no PROXY protocol header")]
    Missing,
    /// They begin like a header.
    #[error("malformed PROXY protocol header")]
    Malformed,
    /// It is longer than 107 bytes (version 1) or 4,096 bytes (version 2).
    #[error("PROXY protocol header is too long")]
    TooLong,
    /// It names a client that has no address, or one that no client has.
    #[error("PROXY protocol header names no address of a client")]
    NoAddress,
}

impl HeaderError {
    fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::TooLong => "too-long",
            Self::NoAddress => "no-address",
        }
    }
}

pin_project! {
    /// A connection behind its PROXY protocol header, of which no byte is left to read.
    #[derive(Debug)]
    pub struct ProxiedStream<I> {
        #[pin]
        io: I,
        // Read together with the header, the next byte first.
        ahead: VecDeque<u8>,
    }
}

impl<I> ProxiedStream<I> {
    fn new(io: I, ahead: Vec<u8>) -> Self {
        let ahead = ahead.into();
        Self { io, ahead }
    }

    /// The connection itself, for its options.
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

const V1_PREFIX: &[u8] = b"PROXY ";
/// Section 2.1 of the specification.
const V1_LONGEST: usize = 107;

const V2_FIXED: usize = 16;
/// Version 2, command 0.
const V2_LOCAL: u8 = 0x20;
/// What the specification allows is 64 KiB; certificates of clients take a few hundred bytes.
const V2_LONGEST: usize = 4096;

/// One segment holds all but the oddest headers.
const USUAL_LENGTH: usize = 512;
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_PENDING: usize = 1024;

#[cfg(test)]
mod tests;
