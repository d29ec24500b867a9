//! Test support for a service behind [`callback_source`]: an in-process payment provider that moves its servers to new
//! addresses, simulates DNS outages, and signs its callbacks.
//!
//! No test needs the network or a real address: the [`Provider`] answers the list's DNS questions,
//! and a [`Delivery`] is a request whose peer the test chooses.
//!
//! ```
//! use axum::{Router, routing::post};
//! use callback_source::{
//!     AllowList, CallbackRoutes, ResolveErrorKind,
//!     signature::{Secret, VerifySignatureLayer},
//!     verify::ConnectInfoPeer,
//!     vipps::Environment,
//! };
//! use callback_source_testkit::{Delivery, Provider, UNLISTED_PEER};
//!
//! /// The service under test.
//! fn app(list: AllowList) -> Router {
//!     let callbacks = Router::new().route("/callbacks", post(async || "received"));
//!     CallbackRoutes::rejecting(callbacks, list, ConnectInfoPeer).into()
//! }
//!
//! // In a test: #[tokio::test(start_paused = true)]
//! #[tokio::main(flavor = "current_thread", start_paused = true)]
//! async fn main() {
//!     const URL: &str = "https://shop.example/callbacks";
//!     let provider = Provider::new(Environment::Test);
//!
//!     // DNS is down since the start: the service cannot decide, and asks for a retry.
//!     provider.fail(ResolveErrorKind::Timeout);
//!     let list = AllowList::builder()
//!         .environment(Environment::Test)
//!         .spawn(provider.resolver());
//!     let app = app(list.clone());
//!     assert_eq!(provider.delivery(URL).status(&app).await, 503);
//!
//!     // DNS works: callback servers are admitted, an unlisted peer is refused.
//!     provider.recover();
//!     list.ready().await;
//!     assert_eq!(provider.delivery(URL).status(&app).await, 200);
//!     let unlisted = Delivery::new(URL).from_peer(UNLISTED_PEER);
//!     assert_eq!(unlisted.status(&app).await, 403);
//!
//!     // The servers move: an on-demand refresh finds the new addresses.
//!     tokio::time::sleep(Provider::TTL / 2).await;
//!     let before = provider.delivery(URL);
//!     provider.rotate();
//!     assert_eq!(provider.delivery(URL).status(&app).await, 200);
//!     assert_eq!(before.status(&app).await, 200, "it lingers");
//!
//!     // DNS fails: the last answers stay in use.
//!     provider.fail(ResolveErrorKind::Timeout);
//!     tokio::time::sleep(2 * Provider::TTL).await;
//!     assert_eq!(provider.delivery(URL).status(&app).await, 200, "its answer is stale");
//!
//!     // A signed delivery is accepted. A delivery whose body was changed on the way is not.
//!     let secret = Secret::new("of the registration").expect("it is not empty");
//!     let webhooks = Router::new()
//!         .route("/callbacks", post(async || "received"))
//!         .layer(VerifySignatureLayer::rejecting(secret.clone()));
//!     let signed = Delivery::new(URL).body("paid").signed(&secret);
//!     assert_eq!(signed.status(&webhooks).await, 200);
//!     let tampered = Delivery::new(URL).body("paid").signed(&secret).tampered("refunded");
//!     assert_eq!(tampered.status(&webhooks).await, 401);
//! }
//! ```
//!
//! With `tokio`'s feature `test-util`, a test can pause the time. A sleep of a day then takes no real time, and all
//! refreshes of that day run in order.
//!
//! | to test | use |
//! |---|---|
//! | a listed and an unlisted peer | [`Delivery::from_peer`], [`UNLISTED_PEER`], [`set_peer`] |
//! | a proxy in front, a client that forges `X-Forwarded-For` | [`Delivery::through_proxy`] |
//! | an undecided list | [`AllowList::undecided`](callback_source::AllowList::undecided) |
//! | an outage, stale answers | [`Provider::fail`] |
//! | servers that move to new addresses | [`Provider::rotate`] |
//! | a signed webhook, a changed body, an old date | [`Delivery::signed`], [`Delivery::tampered`], [`Delivery::signed_at`] |
//! | a token | [`Delivery::token`] |
//! | one host that fails, slow lookups, IPv6 | [`ScriptedResolver`] |
//! | a service in a separate process | `dns::DnsServer`, with its faults |
//!
//! # Features
//!
//! | feature | default | adds |
//! |---|---|---|
//! | `axum` | yes | axum's `ConnectInfo` in the extensions of each request, where `ConnectInfoPeer` reads it |
//! | `dns-server` | no | `dns::DnsServer`, a DNS server on a loopback port |

mod delivery;
#[cfg(feature = "dns-server")]
pub mod dns;
mod provider;
mod resolver;

pub use {
    delivery::{Delivery, set_peer},
    provider::{Provider, UNLISTED_PEER},
    resolver::{Outcome, ScriptedResolver},
};
