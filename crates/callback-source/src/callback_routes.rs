//! Routes of an axum service that only checked callbacks can reach.

use std::collections::BTreeSet;
#[cfg(feature = "signature")]
use std::convert::Infallible;

use axum::{Router, http::StatusCode};
#[cfg(feature = "signature")]
use axum::{body::Body, extract::Request, routing::Route};

use crate::{
    AllowList,
    check::Mode,
    verify::{PeerIp, VerifySourceLayer},
};
#[cfg(feature = "signature")]
use crate::{
    MessageRejection, Policy, RejectionResponse,
    require::RequireVerifiedLayer,
    signature::{SecretSource, Token, VerifySignatureLayer, VerifyTokenLayer},
};

/// Routes of an axum service that only checked callbacks can reach.
///
/// A `CallbackRoutes` combines the routes for callbacks with the checks. Pass it to [`merge`](Router::merge), or turn
/// it into a [`Router`] with `.into()` for [`nest`](Router::nest):
///
/// ```
/// use std::net::SocketAddr;
/// use axum::{Router, body::Body, extract::ConnectInfo, routing::{get, post}};
/// use callback_source::{AllowList, Allowed, CallbackRoutes, verify::ConnectInfoPeer};
/// use http::{Request, StatusCode};
/// use tower::ServiceExt;
///
/// async fn callback(_: Allowed) -> &'static str {
///     "received"
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let list = AllowList::fixed(["192.0.2.1".parse()?]);
/// let callbacks = Router::new().route("/vipps/payments/{order_id}", post(callback));
/// let app = Router::new()
///     .route("/health", get(async || "up"))
///     .merge(CallbackRoutes::rejecting(callbacks, list, ConnectInfoPeer));
///
/// for (peer, status) in [("192.0.2.1:4711", StatusCode::OK), ("192.0.2.2:4711", StatusCode::FORBIDDEN)] {
///     // A server adds the peer: `app.into_make_service_with_connect_info::<SocketAddr>()`.
///     let peer = ConnectInfo(peer.parse::<SocketAddr>()?);
///     let request = Request::post("/vipps/payments/1").extension(peer).body(Body::empty())?;
///     assert_eq!(app.clone().oneshot(request).await?.status(), status);
/// }
/// # Ok(())
/// # }
/// ```
///
/// 1. Every request to a route in a `CallbackRoutes` is checked, whatever its method. A method without a handler gets
///    405 only after the checks.
/// 2. No route can be added to a `CallbackRoutes`:
///
///    ```compile_fail,E0599
///    # use axum::{Router, routing::post};
///    # use callback_source::{AllowList, CallbackRoutes, verify::ConnectInfoPeer};
///    # async fn callback() {}
///    let callbacks = Router::new().route("/vipps/payments", post(callback));
///    CallbackRoutes::rejecting(callbacks, AllowList::fixed([]), ConnectInfoPeer)
///        .route("/vipps/webhooks", post(callback));
///    ```
/// 3. The rest of the app is unaffected: its other routes, its probes, its fallback and its 404. An app can have
///    several `CallbackRoutes` with different lists or checks. They do not affect each other.
/// 4. The source is checked first, then the signature or the token.
///
/// The resulting [`Router`] is an ordinary router. A route that is added to this router is not checked, even if only
/// its method is new. As a second safeguard, let each handler extract the verdict: [`Allowed`](crate::Allowed), or
/// `VerifiedCallback` if there is a message check. A handler outside of the checked routes then responds with 500, and
/// an ERROR in the log names the cause.
///
/// For services without axum, and to add the verdict as request headers, use the layers of [`verify`](crate::verify)
/// and `signature`.
#[derive(Clone, Debug)]
#[must_use = "the routes are served once they are merged into the app, or nested in it"]
pub struct CallbackRoutes<P, S = ()> {
    routes: Router<S>,
    source: VerifySourceLayer<P>,
    #[cfg_attr(
        not(feature = "signature"),
        expect(dead_code, reason = "read by the message checks")
    )]
    mode: Mode,
}

impl<P, S> CallbackRoutes<P, S>
where
    S: Clone + Send + Sync + 'static,
{
    /// Refuses requests that do not come from a callback server of this list.
    ///
    /// [There is no default peer source](PeerIp). Behind a proxy, use a
    /// [`ForwardedPeer`](crate::verify::ForwardedPeer).
    ///
    /// # Panics
    ///
    /// Panics if the router has no route. Also panics if the router, or a router that is nested in it, has a fallback.
    /// The app would inherit that fallback, and the checks would not cover the fallback. Use the route `/{*path}`
    /// instead of a fallback.
    #[track_caller]
    pub fn rejecting(routes: Router<S>, allow: AllowList, peer: P) -> Self {
        Self::new(
            routes,
            VerifySourceLayer::rejecting(allow, peer),
            Mode::Rejecting,
        )
    }

    /// Passes every request on, with the verdicts in its extensions. Use this mode to try out the checks. The log
    /// reports requests that fail a check, within its rate limit. The policy of a message check has no effect. Two
    /// kinds of requests are still refused: those whose body a signature check cannot pass on whole, and those that
    /// fail the checks, if the handler extracts `Allowed` or `VerifiedCallback`.
    ///
    /// # Panics
    ///
    /// Panics in the same cases as [`rejecting`](Self::rejecting).
    #[track_caller]
    pub fn tagging(routes: Router<S>, allow: AllowList, peer: P) -> Self {
        let mode = Mode::Tagging { headers: false };
        Self::new(routes, VerifySourceLayer::tagging(allow, peer), mode)
    }

    #[track_caller]
    fn new(routes: Router<S>, source: VerifySourceLayer<P>, mode: Mode) -> Self {
        assert!(
            routes.has_routes(),
            "there is no route to check; add the routes to the router before it is passed to `CallbackRoutes`"
        );
        assert!(
            fallback_paths(&routes) == fallback_paths(&Router::<S>::new()),
            "a nested router has a fallback, which the checks would not cover; use the route `/{{*path}}` in it instead"
        );
        // A router has no method that reveals its fallback. But axum panics when it merges two routers that both have a
        // fallback, so this merge panics if `routes` has a fallback.
        let probe = Router::new().without_v07_checks();
        let probe = probe.fallback(async || StatusCode::NOT_FOUND);
        Self {
            routes: probe.merge(routes).reset_fallback(),
            source,
            mode,
        }
    }

    /// Also checks the signature of webhooks. The policy joins the verdicts on source and message. The policy also
    /// decides whether the source check and `layer` refuse or tag. With [`tagging`](Self::tagging), both tag under
    /// every policy. The mode of `layer` itself has no effect.
    ///
    /// ```
    /// use std::{net::SocketAddr, time::SystemTime};
    /// use axum::{Router, body::Body, extract::ConnectInfo, routing::post};
    /// use callback_source::{AllowList, CallbackRoutes, Policy, VerifiedCallback};
    /// use callback_source::signature::{Secret, VerifySignatureLayer, webhook};
    /// use callback_source::verify::ConnectInfoPeer;
    /// use http::{Request, StatusCode, Uri};
    /// use tower::ServiceExt;
    ///
    /// async fn received(_: VerifiedCallback, body: String) -> String {
    ///     body
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let secret = Secret::new("of the registration")?;
    /// let list = AllowList::fixed(["192.0.2.1".parse()?]);
    /// let webhooks = Router::new().route("/webhooks", post(received));
    /// let webhooks = CallbackRoutes::rejecting(webhooks, list, ConnectInfoPeer)
    ///     .signature(Policy::Both, VerifySignatureLayer::rejecting(secret.clone()));
    /// let app = Router::new().merge(webhooks);
    ///
    /// let url = Uri::from_static("https://shop.example/webhooks");
    /// let peer = ConnectInfo("192.0.2.1:4711".parse::<SocketAddr>()?);
    /// for (body, status) in [("paid", StatusCode::OK), ("forged", StatusCode::UNAUTHORIZED)] {
    ///     let mut delivery = Request::post("/webhooks").extension(peer).body(Body::from(body))?;
    ///     *delivery.headers_mut() = webhook::sign(&secret, &url, b"paid", SystemTime::now())?;
    ///     assert_eq!(app.clone().oneshot(delivery).await?.status(), status);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "signature")]
    pub fn signature<K, R>(self, policy: Policy, layer: VerifySignatureLayer<K, R>) -> Self
    where
        K: SecretSource,
        R: RejectionResponse<Body, MessageRejection> + Clone + Send + Sync + 'static,
    {
        self.message(policy, |mode| layer.in_mode(mode))
    }

    /// Also checks the `Authorization` token of eCom, Checkout and Express. The policy has the same effect as in
    /// [`signature`](Self::signature).
    ///
    /// ```
    /// use axum::{Router, routing::post};
    /// use callback_source::{AllowList, CallbackRoutes, Policy, VerifiedCallback};
    /// use callback_source::signature::{Token, VerifyTokenLayer};
    /// use callback_source::verify::ConnectInfoPeer;
    ///
    /// async fn payment(_: VerifiedCallback) {}
    ///
    /// let list = AllowList::fixed(["192.0.2.1".parse()?]);
    /// let payments = Router::new().route("/v2/payments/{order_id}", post(payment));
    /// let payments = CallbackRoutes::rejecting(payments, list, ConnectInfoPeer)
    ///     .token(Policy::Both, VerifyTokenLayer::rejecting(Token::new("Bearer s3cret")?));
    /// let app: Router = Router::new().merge(payments);
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "signature")]
    pub fn token<K, R>(self, policy: Policy, layer: VerifyTokenLayer<K, R>) -> Self
    where
        K: SecretSource<Token>,
        R: RejectionResponse<Body, MessageRejection> + Clone + Send + Sync + 'static,
    {
        self.message(policy, |mode| layer.in_mode(mode))
    }

    #[cfg(feature = "signature")]
    fn message<L>(self, policy: Policy, layer: impl FnOnce(Mode) -> L) -> Self
    where
        L: tower_layer::Layer<Route> + Clone + Send + Sync + 'static,
        L::Service: tower_service::Service<Request, Response = axum::response::Response, Error = Infallible>
            + Clone
            + Send
            + Sync
            + 'static,
        <L::Service as tower_service::Service<Request>>::Future: Send + 'static,
    {
        let tagging = Mode::Tagging { headers: false };
        let (source, message) = match policy {
            _ if self.mode != Mode::Rejecting => (tagging, tagging),
            // The source layer refuses unlisted peers before the message check.
            Policy::Both => (Mode::Rejecting, Mode::Rejecting),
            Policy::SourceOnly => (Mode::Rejecting, tagging),
            Policy::MessageWarnOnSource | Policy::MessageOnly => (tagging, Mode::Rejecting),
        };
        let routes = match self.mode {
            Mode::Rejecting => self.routes.route_layer(RequireVerifiedLayer::new(policy)),
            Mode::Tagging { .. } => self.routes,
        };
        Self {
            routes: routes.route_layer(layer(message)),
            source: self.source.in_mode(source),
            mode: self.mode,
        }
    }
}

/// Returns the paths in the fallback of a router, including those of nested routers that have a fallback.
///
/// Only the `Debug` text of a router shows these paths. If another version of axum did not print them, this function
/// would find no path, and `reset_fallback` would drop the nested fallback. Even then, no nested fallback would be
/// served without checks.
fn fallback_paths<S>(router: &Router<S>) -> BTreeSet<String> {
    let text = format!("{router:?}");
    let fallback = text.split("fallback_router").nth(1).unwrap_or_default();
    let quoted = fallback.split('"').skip(1).step_by(2);
    quoted.map(str::to_owned).collect()
}

impl<P, S> From<CallbackRoutes<P, S>> for Router<S>
where
    P: PeerIp + Clone + Send + Sync + 'static,
    S: Clone + Send + Sync + 'static,
{
    fn from(callbacks: CallbackRoutes<P, S>) -> Self {
        callbacks.routes.route_layer(callbacks.source)
    }
}
