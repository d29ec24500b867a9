//! A merchant's web server.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Bytes, extract::State};
use callback_source::{
    AllowList, Allowed, HostName,
    verify::{ConnectInfoPeer, VerifySourceLayer},
};
use tokio::{net::TcpListener, task::JoinSet};

use crate::{
    http::{Client, Reply},
    within,
};

/// A running server. It stops when this value is dropped.
#[derive(Debug)]
pub struct Merchant {
    addr: SocketAddr,
    handled: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Merchant {
    /// Starts a server on a free port of 127.0.0.1. Its handler receives the requests of admitted peers, on every path
    /// and with every method. The reply repeats the body of the request. Its headers `x-peer`, `x-host` and
    /// `x-freshness` contain the values of the `Allowed`.
    ///
    /// # Errors
    ///
    /// If no port is free.
    pub async fn start(list: AllowList) -> io::Result<Self> {
        Self::listen(list, (Ipv4Addr::LOCALHOST, 0).into()).await
    }

    /// Starts the server of [`start`](Self::start) on another address.
    ///
    /// # Errors
    ///
    /// If the address cannot be bound.
    pub async fn listen(list: AllowList, addr: SocketAddr) -> io::Result<Self> {
        let handled = Arc::new(AtomicUsize::new(0));
        let app = Router::new()
            .fallback(echo)
            .layer(VerifySourceLayer::rejecting(list, ConnectInfoPeer))
            .with_state(Arc::clone(&handled));
        let mut merchant = Self::serve(app, addr).await?;
        merchant.handled = handled;
        Ok(merchant)
    }

    /// Starts a server for any application. [`handled`](Self::handled) stays zero.
    ///
    /// # Errors
    ///
    /// If the address cannot be bound.
    pub async fn serve(app: Router, addr: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let app = app.into_make_service_with_connect_info::<SocketAddr>();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, app).await.unwrap_or_default() });
        Ok(Self {
            addr,
            handled: Arc::default(),
            _tasks: tasks,
        })
    }

    /// The address at which the server listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Posts `body` from a loopback address, to the loopback address of its family.
    ///
    /// # Errors
    ///
    /// If the connection fails, or the reply is incomplete.
    pub async fn post(
        &self,
        peer: IpAddr,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Reply> {
        let loopback = match peer {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        let addr = SocketAddr::new(loopback, self.addr.port());
        within(Client::from(peer).send(addr, "POST", PATH, headers, body)).await
    }

    /// The number of requests that the handler received.
    #[must_use]
    pub fn handled(&self) -> usize {
        self.handled.load(Ordering::SeqCst)
    }
}

/// Creates a builder for a list of these hosts that accepts special-purpose addresses. The minimum TTL and the longest
/// back-off are a second.
///
/// # Panics
///
/// If a host name is invalid.
pub fn tiny_list(hosts: &[&str]) -> callback_source::AllowListBuilder {
    AllowList::builder()
        .hosts(hosts.iter().map(|host| host_name(host)))
        .ttl_bounds(Duration::from_secs(1), Duration::from_secs(3600))
        .expect("the bounds are valid")
        .max_backoff(Duration::from_secs(1))
        .insecure_allow_special_addresses()
}

/// Parses a host name.
///
/// # Panics
///
/// If the name is invalid.
#[must_use]
pub fn host_name(text: &str) -> HostName {
    text.parse().expect("the test gives a valid host name")
}

async fn echo(
    State(handled): State<Arc<AtomicUsize>>,
    allowed: Allowed,
    body: Bytes,
) -> ([(&'static str, String); 3], Bytes) {
    handled.fetch_add(1, Ordering::SeqCst);
    let host = allowed.host().map(ToString::to_string);
    let headers = [
        ("x-peer", allowed.peer().to_string()),
        ("x-host", host.unwrap_or_default()),
        ("x-freshness", allowed.freshness().to_string()),
    ];
    (headers, body)
}

/// Path of a callback of the provider's eCom API.
const PATH: &str = "/vipps/callbacks/v2/payments/acme-shop-123-order123abc";
