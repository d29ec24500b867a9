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

/// A running server; dropping it stops it.
#[derive(Debug)]
pub struct Merchant {
    addr: SocketAddr,
    handled: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Merchant {
    /// A server on a free port of 127.0.0.1 that hands what the list admits to a handler for every
    /// path and method. The handler echoes the body, and says in `x-peer`, `x-host` and
    /// `x-freshness` what it was told.
    ///
    /// # Errors
    ///
    /// If no port is free.
    pub async fn start(list: AllowList) -> io::Result<Self> {
        Self::listen(list, (Ipv4Addr::LOCALHOST, 0).into()).await
    }

    /// The same on another address.
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

    /// A server of any application, which counts nothing.
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

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Posts `body` from a loopback address, to the loopback address of its family.
    ///
    /// # Errors
    ///
    /// If there is no complete reply.
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

    /// How many requests have come to the handler.
    #[must_use]
    pub fn handled(&self) -> usize {
        self.handled.load(Ordering::SeqCst)
    }
}

/// Describes a list of these hosts that takes loopback addresses from answers and the least TTL
/// and back-off there can be.
///
/// # Panics
///
/// If a host is no host name.
pub fn tiny_list(hosts: &[&str]) -> callback_source::AllowListBuilder {
    AllowList::builder()
        .hosts(hosts.iter().map(|host| host_name(host)))
        .ttl_bounds(Duration::from_secs(1), Duration::from_secs(3600))
        .expect("the bounds are possible")
        .max_backoff(Duration::from_secs(1))
        .insecure_allow_special_addresses()
}

/// A host name that is known to be one.
///
/// # Panics
///
/// If it is none.
#[must_use]
pub fn host_name(text: &str) -> HostName {
    text.parse().expect("the test names a host")
}

async fn echo(
    State(handled): State<Arc<AtomicUsize>>,
    allowed: Allowed,
    body: Bytes,
) -> ([(&'static str, String); 3], Bytes) {
    handled.fetch_add(1, Ordering::SeqCst);
    let host = allowed.host().map(ToString::to_string);
    let told = [
        ("x-peer", allowed.peer().to_string()),
        ("x-host", host.unwrap_or_default()),
        ("x-freshness", allowed.freshness().to_string()),
    ];
    (told, body)
}

/// As in a callback of the provider's eCom API.
const PATH: &str = "/vipps/callbacks/v2/payments/acme-shop-123-order123abc";
