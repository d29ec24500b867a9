//! The listener that reads the header of each connection from a trusted proxy.

use std::{collections::VecDeque, fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::serve::Listener;
use tokio::{
    io::AsyncRead,
    task::{AbortHandle, JoinSet},
    time::{Instant, timeout},
};

use super::{
    header::{Header, HeaderError},
    stream::ProxiedStream,
};
use crate::{
    rate_limit::PeerRateLimit,
    verify::{TrustedProxies, log},
};

/// A listener that reads the PROXY protocol and returns the client as the connection's peer. See the [module
/// docs](super) for the rules and an example.
pub struct ProxyProtocolListener<L: Listener> {
    listener: L,
    proxies: TrustedProxies,
    header_timeout: Duration,
    required: bool,
    refusals: Arc<PeerRateLimit>,
    /// Connections whose header is being read. `arrived` lists them in the order of their arrival.
    pub(super) pending: JoinSet<Option<Connection<L::Io>>>,
    pub(super) arrived: VecDeque<AbortHandle>,
}

type Connection<I> = (ProxiedStream<I>, SocketAddr);

impl<L: Listener<Addr = SocketAddr>> ProxyProtocolListener<L> {
    /// Creates a listener that reads the header of connections from these proxies.
    ///
    /// The `accept` of `listener` must be cancel safe, as it is for tokio's `TcpListener`.
    pub fn new(listener: L, proxies: TrustedProxies) -> Self {
        crate::metrics::register_proxy_headers();
        Self {
            listener,
            proxies,
            header_timeout: HEADER_TIMEOUT,
            required: true,
            refusals: Arc::new(PeerRateLimit::new(Instant::now())),
            pending: JoinSet::new(),
            arrived: VecDeque::new(),
        }
    }

    /// Sets the time within which a trusted proxy must send its header. Default: 5 s, no bounds.
    ///
    /// The header is in the first packet, so 5 s suffice even if two packets are lost. A proxy that opens connections
    /// in advance, and sends the header only with the first request, needs more time.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use axum::serve::Listener;
    /// use callback_source::verify::{TrustedProxies, proxy_protocol::ProxyProtocolListener};
    /// use tokio::{io::AsyncWriteExt, net::{TcpListener, TcpStream}};
    ///
    /// let proxies = TrustedProxies::new(["127.0.0.1/32".parse()?])?;
    /// let listener = TcpListener::bind("127.0.0.1:0").await?;
    /// let address = listener.local_addr()?;
    /// let mut listener =
    ///     ProxyProtocolListener::new(listener, proxies).header_timeout(Duration::from_secs(60));
    ///
    /// // A silent connection delays no other.
    /// let _silent = TcpStream::connect(address).await?;
    /// let mut proxy = TcpStream::connect(address).await?;
    /// proxy.write_all(b"PROXY TCP4 192.0.2.1 192.0.2.80 4711 443\r\n").await?;
    /// let (_, client) = listener.accept().await;
    /// assert_eq!(client, "192.0.2.1:4711".parse()?);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn header_timeout(mut self, limit: Duration) -> Self {
        self.header_timeout = limit;
        self
    }

    /// Also accepts a trusted proxy's connection that does not begin with a header. The peer of such a connection is
    /// the proxy. Off by default.
    ///
    /// This option is for the migration of a fleet of proxies. It is insecure behind a proxy that forwards bytes and
    /// does not send a header: the client could send a header, and so choose its address.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use axum::serve::Listener;
    /// use callback_source::verify::{TrustedProxies, proxy_protocol::ProxyProtocolListener};
    /// use tokio::{io::AsyncWriteExt, net::{TcpListener, TcpStream}};
    ///
    /// let proxies = TrustedProxies::new(["127.0.0.1/32".parse()?])?;
    /// let listener = TcpListener::bind("127.0.0.1:0").await?;
    /// let address = listener.local_addr()?;
    /// let mut listener = ProxyProtocolListener::new(listener, proxies).insecure_header_optional();
    ///
    /// let mut proxy = TcpStream::connect(address).await?;
    /// proxy.write_all(b"POST /callback HTTP/1.1\r\n").await?;
    /// let (_, peer) = listener.accept().await;
    /// assert_eq!(peer, proxy.local_addr()?);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn insecure_header_optional(mut self) -> Self {
        self.required = false;
        self
    }

    fn read_header(&mut self, mut io: L::Io, peer: SocketAddr) {
        if self.pending.len() >= MAX_PENDING {
            self.close_oldest();
        }
        let (limit, required) = (self.header_timeout, self.required);
        let refusals = Arc::clone(&self.refusals);
        let reading = self.pending.spawn(async move {
            let read = timeout(limit, read_header(&mut io, required)).await;
            let read = read.unwrap_or(Err(Unread::TimedOut));
            let outcome = match &read {
                Ok((None, _)) => Ok("none"),
                Ok((Some(header), _)) => Ok(header.client().map_or("local", |_| "client")),
                // Not a failure, since some load balancers only probe whether the port is open.
                Err(Unread::Closed(0)) => Ok("closed"),
                Err(unread) => Err(unread.as_str()),
            };
            let proxy = peer.ip().to_canonical();
            log::proxy_header(outcome, proxy, &refusals, Instant::now());
            let (header, ahead) = read.ok()?;
            let client = header.and_then(|header| header.client()).unwrap_or(peer);
            Some((ProxiedStream::new(io, ahead), client))
        });
        // A handle keeps its task in memory, even after the task has finished.
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
                // The task of a closed connection returns `None`. An aborted task yields an error.
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

/// The reason why a connection is closed.
#[derive(Debug)]
pub(super) enum Unread {
    Header(HeaderError),
    /// The connection ended after this number of bytes.
    Closed(usize),
    TimedOut,
}

impl Unread {
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::Header(error) => error.as_str(),
            Self::Closed(_) => "closed",
            Self::TimedOut => "timed-out",
        }
    }
}

/// Reads the header. Returns the header with the bytes that followed it.
async fn read_header(
    io: &mut (impl AsyncRead + Unpin),
    required: bool,
) -> Result<(Option<Header>, Vec<u8>), Unread> {
    let mut ahead = Vec::new();
    match Header::read(io, &mut ahead).await {
        Ok(Ok(header)) => Ok((Some(header), ahead)),
        Ok(Err(HeaderError::Missing)) if !required => Ok((None, ahead)),
        Ok(Err(error)) => Err(Unread::Header(error)),
        // An error of the connection is treated like the end of the connection.
        Err(_) => Err(Unread::Closed(ahead.len())),
    }
}

pub(super) const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
pub(super) const MAX_PENDING: usize = 1024;
