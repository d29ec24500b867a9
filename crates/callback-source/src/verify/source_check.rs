//! The source check: layer, service, and the check itself.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Method, Request, Response, StatusCode, request::Parts};
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use super::{PeerIp, log, tag};
use crate::{
    AllowList, HostName, PlainText, Rejection, RejectionResponse, ResponseFuture, Verdict,
    check::{Begun, Check, Checked, Delivered, Mode},
};

/// Wraps services in [`VerifySource`]. See the [module docs](super) for an example.
#[derive(Clone, Debug)]
#[must_use]
pub struct VerifySourceLayer<P, R = PlainText> {
    check: SourceCheck<P>,
    response: R,
}

impl<P> VerifySourceLayer<P> {
    /// Refuses requests that do not come from a callback server.
    ///
    /// Wrap only the routes for callbacks, since customers and health checks call from other addresses:
    ///
    /// ```
    /// # #[cfg(feature = "axum")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::net::SocketAddr;
    /// use axum::{Router, body::Body, extract::connect_info::MockConnectInfo, routing::{get, post}};
    /// use callback_source::AllowList;
    /// use callback_source::verify::{ConnectInfoPeer, VerifySourceLayer};
    /// use http::Request;
    /// use tower::ServiceExt;
    ///
    /// let list = AllowList::fixed(["192.0.2.1".parse()?]);
    /// let callbacks = Router::new()
    ///     .route("/callbacks", post(async || "shipped"))
    ///     .layer(VerifySourceLayer::rejecting(list, ConnectInfoPeer));
    /// let app = Router::new().route("/", get(async || "welcome")).merge(callbacks);
    ///
    /// let customer: SocketAddr = "192.0.2.2:4711".parse()?;
    /// let app = app.layer(MockConnectInfo(customer));
    /// let response = app.clone().oneshot(Request::get("/").body(Body::empty())?).await?;
    /// assert_eq!(response.status(), 200);
    /// let response = app.oneshot(Request::post("/callbacks").body(Body::empty())?).await?;
    /// assert_eq!(response.status(), 403);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "axum"))]
    /// # fn main() {}
    /// ```
    pub fn rejecting(allow: AllowList, peer: P) -> Self {
        Self::new(allow, peer, Mode::Rejecting)
    }

    /// Hands on every request, with the [`Verdict`] in its extensions. Use this mode to try out the check, or to
    /// decide in the handler.
    ///
    /// ```
    /// use std::convert::Infallible;
    /// use callback_source::{AllowList, Verdict};
    /// use callback_source::verify::{SocketAddrPeer, VerifySourceLayer};
    /// use http::{Request, Response};
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Infallible> {
    /// let merchant = service_fn(async |request: Request<()>| {
    ///     let verdict = request.extensions().get::<Verdict>().expect("the layer leaves one");
    ///     let text = if verdict.is_allowed() { "shipped" } else { "asked the provider first" };
    ///     Ok::<_, Infallible>(Response::new(text))
    /// });
    /// let layer = VerifySourceLayer::tagging(AllowList::fixed([]), SocketAddrPeer);
    /// let response = layer.layer(merchant).oneshot(Request::new(())).await?;
    /// assert_eq!(response.into_body(), "asked the provider first");
    /// # Ok(())
    /// # }
    /// ```
    pub fn tagging(allow: AllowList, peer: P) -> Self {
        Self::new(allow, peer, Mode::Tagging { headers: false })
    }

    fn new(allow: AllowList, peer: P, mode: Mode) -> Self {
        Self {
            check: SourceCheck { allow, peer, mode },
            response: PlainText,
        }
    }

    /// Returns the same layer in another mode. `CallbackRoutes` chooses the mode by the policy.
    #[cfg(all(feature = "axum", feature = "signature"))]
    pub(crate) fn in_mode(mut self, mode: Mode) -> Self {
        self.check.mode = mode;
        self
    }

    /// Adds the verdict as request headers, for an upstream that is not written in Rust. The headers are
    /// `x-callback-source` (`allow` or `reject`), `x-callback-host` (the host whose answer lists the peer, if any) and
    /// `x-callback-reason` (the reason for a rejection). The upstream should admit a request only if
    /// `x-callback-source` is `allow`.
    ///
    /// Has no effect on a rejecting layer, which hands on allowed requests only.
    ///
    /// ```
    /// use callback_source::AllowList;
    /// use callback_source::verify::{SocketAddrPeer, VerifySourceLayer};
    ///
    /// let list = AllowList::fixed(["192.0.2.1".parse().unwrap()]);
    /// let layer = VerifySourceLayer::tagging(list, SocketAddrPeer).with_tag_headers();
    /// ```
    pub fn with_tag_headers(mut self) -> Self {
        if let Mode::Tagging { headers } = &mut self.check.mode {
            *headers = true;
        }
        self
    }
}

impl<P, R> VerifySourceLayer<P, R> {
    /// Replaces the responses to refused requests, [`PlainText`] by default. See [`RejectionResponse`] for an
    /// example. Has no effect on a tagging layer.
    pub fn with_response<T>(self, response: T) -> VerifySourceLayer<P, T> {
        let check = self.check;
        VerifySourceLayer { check, response }
    }
}

impl<S, P, R> Layer<S> for VerifySourceLayer<P, R>
where
    P: Clone,
    R: Clone,
{
    type Service = VerifySource<S, P, R>;

    fn layer(&self, inner: S) -> Self::Service {
        VerifySource(Checked {
            inner,
            check: self.check.clone(),
            response: self.response.clone(),
        })
    }
}

/// Calls the inner service only for requests from a callback server. In tagging mode, the other requests are tagged
/// instead of refused. See the [module docs](super) for an example.
///
/// The inner service must be [`Clone`]. A request that waits for its verdict holds a clone that has not been polled for
/// readiness, so that a waiting request occupies no permit of a concurrency limit. For the same reason, a clone
/// replaces the ready service after a refusal.
#[derive(Clone, Debug)]
pub struct VerifySource<S, P, R = PlainText>(Checked<S, SourceCheck<P>, R>);

impl<S, P, R, ReqBody, ResBody> Service<Request<ReqBody>> for VerifySource<S, P, R>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone + Send + 'static,
    S::Future: Send,
    P: PeerIp + Clone + Send + Sync + 'static,
    R: RejectionResponse<ResBody> + Clone + Send + 'static,
    ReqBody: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, S::Response, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        self.0.call(request)
    }
}

#[derive(Clone, Debug)]
struct SourceCheck<P> {
    allow: AllowList,
    peer: P,
    mode: Mode,
}

/// The verdict after an on-demand refresh, and the body of the request that waits for this verdict.
type Pending<B> = (Pin<Box<dyn Future<Output = Verdict> + Send>>, B);

impl<P, B> Check<B> for SourceCheck<P>
where
    P: PeerIp + Clone + Sync,
    B: Send,
{
    type Body = B;
    type Rejection = Rejection;
    type Pending = Pending<B>;
    type Found = ();

    fn begin(&self, parts: &mut Parts, body: B) -> Begun<B, Pending<B>, Rejection> {
        tag::scrub(&mut parts.headers);
        let now = Instant::now();
        let verdict = match self.peer.peer_ip(&parts.headers, &parts.extensions) {
            Ok(peer) => {
                let verdict = self.allow.verdict_at(peer, now);
                if !verdict.is_allowed()
                    && let Some(refreshed) = self.allow.refresh_on_demand(peer, now)
                {
                    return Begun::Pending((Box::pin(refreshed), body));
                }
                verdict
            }
            Err(rejection) => Verdict::Reject(rejection),
        };
        match self.act(verdict, parts, now) {
            Ok(()) => Begun::Passed(body),
            Err(rejection) => Begun::Refused(rejection),
        }
    }

    async fn finish(
        &self,
        (refreshed, body): Pending<B>,
        parts: &mut Parts,
    ) -> Result<(B, ()), Rejection> {
        let verdict = refreshed.await;
        self.act(verdict, parts, Instant::now())?;
        Ok((body, ()))
    }

    async fn accept(&self, (): (), _: &mut Parts) -> Result<Option<Delivered>, Rejection> {
        Ok(None)
    }
}

impl<P> SourceCheck<P> {
    /// Logs and counts a verdict. Puts the verdict into the extensions, or returns the reason for a refusal.
    // Inlined, so that the verdict of a listed peer is moved only once, into the box in the extensions.
    #[inline]
    fn act(&self, verdict: Verdict, parts: &mut Parts, now: Instant) -> Result<(), Rejection> {
        match &verdict {
            Verdict::Allow(allowed) => {
                log::allowed(allowed);
                self.allow.shared().metrics.allowed(now.into_std());
            }
            Verdict::Reject(rejection) => self.report(rejection, &parts.method, now),
        }
        // Removes the result of an outer `RequireVerified`, which did not include this verdict.
        #[cfg(feature = "signature")]
        parts.extensions.remove::<crate::VerifiedCallback>();
        let verdict = match verdict {
            Verdict::Reject(rejection) if self.mode == Mode::Rejecting => return Err(rejection),
            verdict => verdict,
        };
        if self.mode == (Mode::Tagging { headers: true }) {
            tag::set(&mut parts.headers, &verdict);
        }
        parts.extensions.insert(verdict);
        Ok(())
    }

    #[inline(never)]
    fn report(&self, rejection: &Rejection, method: &Method, now: Instant) {
        let shared = self.allow.shared();
        if rejection.status() == StatusCode::FORBIDDEN {
            shared.refused(rejection, now.into_std());
        }
        shared.report_lost_refresher();
        shared.metrics.rejected(rejection.kind().as_str());
        let tagged = self.mode != Mode::Rejecting;
        let hosts = || {
            let set = shared.published.load();
            let hosts: Vec<_> = set.hosts().map(HostName::as_str).collect();
            hosts.join(",")
        };
        log::refused(rejection, method, tagged, &shared.refusals, hosts, now);
    }
}
