//! A tower [`Layer`](verify::VerifySourceLayer) that admits a callback only from the provider's callback servers,
//! which are published as host names and change without notice.
//!
//! Vipps MobilePay publishes its callback servers as host names only, and asks merchants to follow changes in DNS. This
//! crate resolves these names, refreshes the addresses when their TTLs end, and checks the peer of each request against
//! them. A request from a listed server never waits for DNS. A failed lookup never removes an address silently. "Cannot
//! decide" (503) is distinct from "not the provider" (403).
//!
//! ```no_run
//! # #[cfg(all(feature = "axum", feature = "hickory"))]
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::net::SocketAddr;
//! use axum::{Router, routing::{get, post}};
//! use callback_source::{AllowList, CallbackRoutes, HickoryResolver};
//! use callback_source::{verify::ConnectInfoPeer, vipps::Environment};
//!
//! # async fn callback() {}
//! # let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
//! let allow = AllowList::builder()
//!     .environment(Environment::Production)
//!     .spawn(HickoryResolver::from_system_conf()?);
//! let callbacks = Router::new()
//!     .route("/vipps/callbacks/v2/payments/{order_id}", post(callback));
//! let app = Router::new()
//!     .route("/health", get(async || "up"))
//!     .merge(CallbackRoutes::rejecting(callbacks, allow, ConnectInfoPeer));
//! axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! A listed address does not prove that the provider sent a request, since the customers of a cloud share its outbound
//! addresses. Check the callback's signature or token as well. The feature `signature` adds a check for each.
//!
//! # Reading order
//!
//! Answers flow from DNS to a published set: [`HostName`] → [`Resolve`] → [`AllowSet`] (pure; its [module](set) states
//! the rules) → [`AllowList`]. [`verify`] checks requests against that set.
//!
//! # Features
//!
//! | feature | default | adds |
//! |---|---|---|
//! | `axum` | yes | [`CallbackRoutes`], [`ConnectInfoPeer`](verify::ConnectInfoPeer), extractors for [`Allowed`] and [`Verdict`]; for axum 0.8 |
//! | `hickory` | yes | [`HickoryResolver`]; without it, a list needs your own [`Resolve`] |
//! | `metrics` | no | counters and gauges through the `metrics` facade, see [`AllowList`] |
//! | `proxy-protocol` | no | the header of the PROXY protocol, and with `axum` a listener that reads it: `verify::proxy_protocol` |
//! | `unix-socket` | no | [`UnixConnection`](verify::UnixConnection) as connect info of axum's Unix listener |
//! | `redis` | no | `signature::RedisReplayStore`: replay marks that several replicas share, in Redis or Valkey |
//! | `signature` | no | `signature` and `require`: webhook signatures, tokens, and both checks together |

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(callback_source_simulation)]
#[doc(hidden)]
pub mod simulation;

mod debug;
mod metrics;
mod subscriber;
mod sync;

mod rate_limit;

mod dns;
pub use dns::{
    Answer, Family, HostName, HostNameError, Question, Resolve, ResolveError, ResolveErrorKind,
};
#[cfg(feature = "hickory")]
pub use dns::{DnsServerError, HickoryResolver, SystemConfError, parse_dns_server};

mod verdict;
pub use verdict::{Allowed, Freshness, Rejection, RejectionKind, Verdict};
#[cfg(feature = "signature")]
pub use verdict::{
    CallbackRejection, MessageAuth, MessageRejection, MessageRejectionKind, MessageVerdict, Policy,
    PolicyError, VerifiedCallback, VerifiedMessage,
};

pub mod vipps;

pub mod set;
pub use set::{AllowSet, NetworkError};

mod list;
pub use list::{AllowList, AllowListBuilder, Changes, Refresher, TtlBoundsError};

mod response;
pub use response::{PlainText, RejectionResponse};

mod check;
#[cfg(feature = "axum")]
pub use check::ExtractorRejection;
pub use check::ResponseFuture;

pub mod verify;

#[cfg(feature = "signature")]
pub mod signature;

#[cfg(feature = "signature")]
pub mod require;

#[cfg(feature = "axum")]
mod callback_routes;
#[cfg(feature = "axum")]
pub use callback_routes::CallbackRoutes;

#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;

/// Target of all log events, so that one filter matches them all.
const LOG_TARGET: &str = "callback_source";
