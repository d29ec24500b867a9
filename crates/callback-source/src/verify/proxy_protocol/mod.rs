//! The PROXY protocol, versions 1 and 2, with which a proxy names the client of a connection.
//!
//! Proxies that forward bytes, not requests (HAProxy in `mode tcp`, nginx `stream`, AWS NLB), cannot write HTTP
//! headers. Such proxies name the client in a header at the start of the connection
//! ([specification](https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt)). `ProxyProtocolListener`, with the
//! feature `axum`, reads this header and passes the client's address to axum as the peer of the connection. [`Header`]
//! reads the header for other servers.
//!
//! 1. A peer that is not a [trusted proxy](super::TrustedProxies) is the client itself, and its bytes are not
//!    inspected. If such a peer sends a header, the HTTP server reads the header as a malformed request.
//! 2. By default, a trusted peer must send a header, of either version, within 5 s. Otherwise, the connection is closed
//!    and the reason is logged, within a rate limit. A connection that the peer closes without sending a byte is not
//!    logged. The connection is also closed if the header is malformed, or longer than 107 bytes (version 1) or 4,096
//!    bytes (version 2), or if the header names a Unix socket, a datagram, or an unspecified, multicast or broadcast
//!    address.
//! 3. A header with `LOCAL` (version 2), `UNKNOWN` (version 1) or the unspecified family marks a connection of the
//!    proxy itself, such as a health check. The peer of such a connection is the proxy. The rest of such a header is
//!    ignored. The type-length-value fields of every header are ignored, too.
//! 4. Headers are read while further connections are accepted, so that a silent peer delays no other peer. At most
//!    1,024 connections wait for their header. If one more connection arrives, the oldest of them is closed.
//!
//! With [`ConnectInfoPeer`](super::ConnectInfoPeer) the source check judges the client's address, and no HTTP header
//! is read.
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
//! // axum accepts a `SocketAddr` from a listener that is not its own only through `tap_io`.
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
//! A proxy that forwards bytes and is *not* configured to send the header (`send-proxy` in HAProxy) forwards a header
//! that the client wrote. Trust an address only if every program that connects from it sends the header itself.

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
