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
//!     ConnectInfoPeer, TrustedProxies, VerifySourceLayer, proxy_protocol::ProxyProtocolListener,
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

mod header;
#[cfg(feature = "axum")]
mod listener;
#[cfg(feature = "axum")]
mod stream;

pub use header::{Header, HeaderError};
#[cfg(feature = "axum")]
pub use {listener::ProxyProtocolListener, stream::ProxiedStream};

#[cfg(all(test, feature = "axum"))]
mod tests;
