//! The listener that reads the header of each connection.

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

/// A listener whose connections come from the client that a trusted proxy names. See the
/// [module docs](super) for the rules and an example.
pub struct ProxyProtocolListener<L: Listener> {
    listener: L,
    proxies: TrustedProxies,
    header_timeout: Duration,
    required: bool,
    refusals: Arc<PeerRateLimit>,
    /// Connections whose header is being read, and the same ones in the order of their arrival.
    pub(super) pending: JoinSet<Option<Connection<L::Io>>>,
    pub(super) arrived: VecDeque<AbortHandle>,
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
            refusals: Arc::new(PeerRateLimit::new(Instant::now())),
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
        let (limit, required) = (self.header_timeout, self.required);
        let refusals = Arc::clone(&self.refusals);
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
            log::proxy_header(outcome, proxy, &refusals, Instant::now());
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
pub(super) enum Unread {
    Header(HeaderError),
    /// After so many bytes.
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

pub(super) const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
pub(super) const MAX_PENDING: usize = 1024;
