//! The layer and the service for the signatures of the Webhooks API.

use std::{
    fmt,
    marker::PhantomData,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{
    Request, Response,
    request::Parts,
    uri::{Authority, PathAndQuery},
};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    ReplayGuard, SecretSource,
    signature_check::{HandOn, Settings, SignatureCheck, sealed::Sealed},
    webhook::{HTTPS_PORT, sent_host},
};
use crate::{
    MessageRejection, PlainText, RejectionResponse, ResponseFuture,
    check::{Checked, Mode},
};

/// Wraps services in [`VerifySignature`]. See the [module docs](super) for an example.
///
/// `H` determines the type of the body that the inner service receives: that of the request ([`SameBody`]), or
/// another type ([`with_body`](Self::with_body)).
#[must_use]
pub struct VerifySignatureLayer<K, R = PlainText, H = SameBody> {
    settings: Settings<K>,
    response: R,
    hand_on: PhantomData<fn() -> H>,
}

impl<K: SecretSource> VerifySignatureLayer<K> {
    /// Refuses requests that are not signed with one of the secrets. See the [module docs](super) for an example.
    pub fn rejecting(keys: K) -> Self {
        Self::new(keys, Mode::Rejecting)
    }

    /// Hands on requests whether or not they are verified, with the [`MessageVerdict`](crate::MessageVerdict) in their
    /// extensions. Use this mode to try out the check, or to decide in the handler.
    ///
    /// A tagging layer still refuses a request whose body is too large, too slow or incomplete, since it cannot hand
    /// on such a body.
    ///
    /// ```
    /// use std::convert::Infallible;
    /// use bytes::Bytes;
    /// use callback_source::MessageVerdict;
    /// use callback_source::signature::{Secret, VerifySignatureLayer};
    /// use http::{Request, Response};
    /// use http_body_util::{BodyExt, Full};
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// // A shop that accepted unsigned callbacks so far, and wants to know what would be refused.
    /// let merchant = service_fn(async |request: Request<Full<Bytes>>| {
    ///     let verdict = request.extensions().get::<MessageVerdict>().expect("the layer leaves one");
    ///     let text = verdict.rejection().map_or("signed".to_owned(), |reason| reason.to_string());
    ///     Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(text)))
    /// });
    /// let secret = Secret::new("of the registration")?;
    /// let service = VerifySignatureLayer::tagging(secret).layer(merchant);
    /// let response = service.oneshot(Request::new(Full::from("paid"))).await?;
    /// let text = response.into_body().collect().await?.to_bytes();
    /// assert_eq!(text, "missing-header `authorization`");
    /// # Ok(())
    /// # }
    /// ```
    pub fn tagging(keys: K) -> Self {
        Self::new(keys, Mode::Tagging { headers: false })
    }

    fn new(keys: K, mode: Mode) -> Self {
        Self {
            settings: Settings::new(keys, mode),
            response: PlainText,
            hand_on: PhantomData,
        }
    }
}

impl<K, R, H> VerifySignatureLayer<K, R, H> {
    /// Returns the same layer in another mode. `CallbackRoutes` chooses the mode by the policy.
    #[cfg(feature = "axum")]
    pub(crate) fn in_mode(mut self, mode: Mode) -> Self {
        self.settings.message.in_mode(mode);
        self
    }

    /// Sets the maximum difference between the date of a request and the clock, in both directions. Default: five
    /// minutes, no bounds.
    ///
    /// The provider signs each retry anew, so a short window loses no callback as long as the clock is correct. Within
    /// the window, a recorded delivery can be sent again, unless a [guard](Self::replay_guard) refuses it.
    ///
    /// ```
    /// use std::{convert::Infallible, time::{Duration, SystemTime}};
    /// use bytes::Bytes;
    /// use callback_source::signature::{Secret, VerifySignatureLayer, webhook};
    /// use http::{Request, Response, Uri};
    /// use http_body_util::Full;
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let merchant = service_fn(async |request: Request<Full<Bytes>>| {
    ///     Ok::<_, Infallible>(Response::new(request.into_body()))
    /// });
    /// let secret = Secret::new("of the registration")?;
    /// let signed_at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    /// let received_at = signed_at + Duration::from_secs(120);
    ///
    /// for (window, status) in [(300, 200), (60, 401)] {
    ///     let service = VerifySignatureLayer::rejecting(secret.clone())
    ///         .window(Duration::from_secs(window))
    ///         .clock(move || received_at)
    ///         .layer(merchant);
    ///     let mut request = Request::post("/webhooks").body(Full::from("paid"))?;
    ///     let url = Uri::from_static("https://shop.example/webhooks");
    ///     *request.headers_mut() = webhook::sign(&secret, &url, b"paid", signed_at)?;
    ///     assert_eq!(service.oneshot(request).await?.status(), status);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn window(mut self, window: Duration) -> Self {
        self.settings.window = window;
        self
    }

    /// Replaces the system's clock, for tests with a saved delivery. See [`window`](Self::window) for an example.
    pub fn clock(mut self, now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.settings.clock = Arc::new(now);
        self
    }

    /// Pins the host to the host of the registered URL, for a proxy that does not preserve the host. The request's own
    /// host is then ignored. Include the port if it is not 443. By default, the host is not pinned.
    ///
    /// ```
    /// use callback_source::signature::{Secret, VerifySignatureLayer};
    ///
    /// // The proxy forwards `https://shop.example/webhooks` as `http://10.0.0.7:8080/`.
    /// VerifySignatureLayer::rejecting(Secret::new("of the registration")?)
    ///     .host("shop.example".parse()?)
    ///     .path("/webhooks".parse()?);
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn host(mut self, host: Authority) -> Self {
        self.settings.host = Some(sent_host(&host, HTTPS_PORT).into_owned());
        self
    }

    /// Pins path and query to those of the registered URL, for a proxy that does not preserve them. The path and query
    /// of the request are then ignored, so put the layer only on the route of that URL. See [`host`](Self::host) for an
    /// example.
    pub fn path(mut self, path: PathAndQuery) -> Self {
        // Unlike `as_str`, `to_string` adds a `/` before a bare query.
        self.settings.path = Some(path.to_string());
        self
    }

    /// Sets the maximum length of a body in bytes. Default: 256 KiB, no bounds. A longer body is refused with 413.
    ///
    /// The body is buffered before the inner service receives it. The body of a callback has a few hundred bytes. A
    /// rejecting layer checks the signature first, so that it buffers only signed bodies.
    ///
    /// ```
    /// use std::{convert::Infallible, time::SystemTime};
    /// use bytes::Bytes;
    /// use callback_source::signature::{Secret, VerifySignatureLayer, webhook};
    /// use http::{Request, Response, Uri};
    /// use http_body_util::Full;
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let merchant = service_fn(async |request: Request<Full<Bytes>>| {
    ///     Ok::<_, Infallible>(Response::new(request.into_body()))
    /// });
    /// let secret = Secret::new("of the registration")?;
    /// let layer = VerifySignatureLayer::rejecting(secret.clone()).body_limit(16 * 1024);
    ///
    /// let url = Uri::from_static("https://shop.example/webhooks");
    /// let body = vec![b' '; 20_000];
    /// let mut request = Request::post("/webhooks").body(Full::from(body.clone()))?;
    /// *request.headers_mut() = webhook::sign(&secret, &url, &body, SystemTime::now())?;
    /// let response = layer.layer(merchant).oneshot(request).await?;
    /// assert_eq!(response.status(), 413);
    /// # Ok(())
    /// # }
    /// ```
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.settings.limits.bytes = bytes;
        self
    }

    /// Sets the time within which the whole body must arrive. Default: five seconds, which is half of the time for
    /// which the Webhooks API waits for a response. No bounds. A body that takes longer is refused with 408.
    ///
    /// ```
    /// use std::{convert::Infallible, time::{Duration, SystemTime}};
    /// use bytes::Bytes;
    /// use callback_source::signature::{Secret, VerifySignatureLayer, webhook};
    /// use futures_util::stream;
    /// use http::{Request, Response, Uri};
    /// use http_body::Frame;
    /// use http_body_util::{Full, StreamBody};
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let merchant = service_fn(async |request: Request<Full<Bytes>>| {
    ///     Ok::<_, Infallible>(Response::new(request.into_body()))
    /// });
    /// let secret = Secret::new("of the registration")?;
    /// let service = VerifySignatureLayer::rejecting(secret.clone())
    ///     .body_time_limit(Duration::from_secs(1))
    ///     .with_body::<Full<Bytes>>()
    ///     .layer(merchant);
    ///
    /// // The sender signs a body, and never sends it.
    /// let silent = stream::pending::<Result<Frame<Bytes>, Infallible>>();
    /// let url = Uri::from_static("https://shop.example/webhooks");
    /// let mut request = Request::post("/webhooks").body(StreamBody::new(silent))?;
    /// *request.headers_mut() = webhook::sign(&secret, &url, b"paid", SystemTime::now())?;
    /// assert_eq!(service.oneshot(request).await?.status(), 408);
    /// # Ok(())
    /// # }
    /// ```
    pub fn body_time_limit(mut self, limit: Duration) -> Self {
        self.settings.limits.time = limit;
        self
    }

    /// Replaces the function that reads the id by which secrets are looked up. By default, the id is the `webhook-id`.
    /// Another possible id is the sale unit in the path. `None` and an empty text mean that the request has no id.
    ///
    /// The request has not been verified when `id` is called.
    ///
    /// ```
    /// use std::collections::HashMap;
    /// use callback_source::signature::{Secret, Secrets, VerifySignatureLayer};
    ///
    /// let secrets = HashMap::from([("oslo".to_owned(), Secrets::from(Secret::new("of the sale unit")?))]);
    /// VerifySignatureLayer::rejecting(secrets)
    ///     .select_by(|parts| parts.uri.path().strip_prefix("/webhooks/").map(str::to_owned));
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn select_by(
        mut self,
        id: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.settings.message.select_by(id);
        self
    }

    /// Sets the time within which the source must return the secrets. Default: two seconds, no bounds.
    ///
    /// A lookup that takes longer is cancelled, and a rejecting layer responds with 503 and `Retry-After`. The Webhooks
    /// API waits ten seconds for a response, and eCom waits three seconds. The limit must leave the handler enough of
    /// that time. Otherwise, the sender stops waiting before the handler responds.
    ///
    /// ```
    /// use std::{convert::Infallible, io, time::{Duration, SystemTime}};
    /// use bytes::Bytes;
    /// use callback_source::signature::{Secret, Secrets, VerifySignatureLayer, webhook};
    /// use http::{Request, Response, Uri};
    /// use http_body_util::Full;
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let merchant = service_fn(async |request: Request<Full<Bytes>>| {
    ///     Ok::<_, Infallible>(Response::new(request.into_body()))
    /// });
    /// // A secret store that does not respond.
    /// let vault = |_: Option<String>| std::future::pending::<io::Result<Secrets>>();
    /// let service = VerifySignatureLayer::rejecting(vault)
    ///     .secret_time_limit(Duration::from_millis(500))
    ///     .layer(merchant);
    ///
    /// let secret = Secret::new("of the registration")?;
    /// let url = Uri::from_static("https://shop.example/webhooks");
    /// let mut request = Request::post("/webhooks").body(Full::from("paid"))?;
    /// *request.headers_mut() = webhook::sign(&secret, &url, b"paid", SystemTime::now())?;
    /// let response = service.oneshot(request).await?;
    /// assert_eq!(response.status(), 503);
    /// assert_eq!(response.headers()["retry-after"], "5");
    /// # Ok(())
    /// # }
    /// ```
    pub fn secret_time_limit(mut self, limit: Duration) -> Self {
        self.settings.message.lookup_limit(limit);
        self
    }

    /// Refuses a repetition of the same request within the window, with 409. Off by default, since a guard without a
    /// store remembers only the deliveries to this process. A handler that remembers the events that it has processed
    /// needs no guard.
    ///
    /// See [`ReplayGuard`] for an example.
    pub fn replay_guard(mut self, guard: ReplayGuard) -> Self {
        self.settings.replay = Some(guard);
        self
    }

    /// Replaces the responses to refused requests, `PlainText` by default.
    ///
    /// ```
    /// use callback_source::MessageRejection;
    /// use callback_source::signature::{Secret, VerifySignatureLayer};
    /// use http::Response;
    ///
    /// VerifySignatureLayer::rejecting(Secret::new("of the registration")?).with_response(
    ///     |rejection: &MessageRejection| {
    ///         // The status alone: the reason is in the extensions, for the service's own log.
    ///         let mut response = Response::new("");
    ///         *response.status_mut() = rejection.status();
    ///         response
    ///     },
    /// );
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_response<T>(self, response: T) -> VerifySignatureLayer<K, T, H> {
        VerifySignatureLayer {
            settings: self.settings,
            response,
            hand_on: PhantomData,
        }
    }

    /// Hands the body on as a `B`, for inner services that do not accept the server's type of body:
    ///
    /// ```
    /// use bytes::Bytes;
    /// use callback_source::signature::{Secret, VerifySignatureLayer};
    /// use http_body_util::Full;
    ///
    /// // hyper's server gives an `Incoming`, which cannot be made of bytes.
    /// VerifySignatureLayer::rejecting(Secret::new("of the registration")?).with_body::<Full<Bytes>>();
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_body<B>(self) -> VerifySignatureLayer<K, R, IntoBody<B>> {
        VerifySignatureLayer {
            settings: self.settings,
            response: self.response,
            hand_on: PhantomData,
        }
    }
}

impl<S, K, R, H> Layer<S> for VerifySignatureLayer<K, R, H>
where
    R: Clone,
{
    type Service = VerifySignature<S, K, R, H>;

    fn layer(&self, inner: S) -> Self::Service {
        VerifySignature(Checked {
            inner,
            check: SignatureCheck {
                settings: Arc::new(self.settings.clone()),
                hand_on: PhantomData,
            },
            response: self.response.clone(),
        })
    }
}

impl<K, R: Clone, H> Clone for VerifySignatureLayer<K, R, H> {
    fn clone(&self) -> Self {
        Self {
            settings: self.settings.clone(),
            response: self.response.clone(),
            hand_on: PhantomData,
        }
    }
}

impl<K, R, H> fmt::Debug for VerifySignatureLayer<K, R, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifySignatureLayer")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Calls the inner service only for deliveries that are signed. In tagging mode, the other deliveries are tagged
/// instead of refused, unless their body cannot be handed on whole. See the [module docs](super) for an example.
///
/// The inner service must be [`Clone`], because a request that waits for its body holds a clone of the service.
pub struct VerifySignature<S, K, R = PlainText, H = SameBody>(Checked<S, SignatureCheck<K, H>, R>);

impl<S, K, R, H, ReqBody, ResBody> Service<Request<ReqBody>> for VerifySignature<S, K, R, H>
where
    S: Service<Request<H::Body>, Response = Response<ResBody>> + Clone + Send + 'static,
    S::Future: Send,
    K: SecretSource,
    R: RejectionResponse<ResBody, MessageRejection> + Clone + Send + 'static,
    H: HandOn<ReqBody> + 'static,
    ReqBody: Body + Send + 'static,
    ReqBody::Data: Send,
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

impl<S: Clone, K, R: Clone, H> Clone for VerifySignature<S, K, R, H> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S, K, R, H> fmt::Debug for VerifySignature<S, K, R, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifySignature")
            .field("settings", &self.0.check.settings)
            .finish_non_exhaustive()
    }
}

/// Marker for a body that is handed on in the request's own body type, such as `axum::body::Body`. That type must
/// implement `From<Bytes>`.
#[derive(Clone, Copy, Debug)]
pub struct SameBody(());

impl Sealed for SameBody {}

impl<B: From<Bytes> + Send> HandOn<B> for SameBody {
    type Body = B;
}

/// Marker for a body that is handed on as a `B`. See [`with_body`](VerifySignatureLayer::with_body) for an example.
#[derive(Clone, Copy, Debug)]
pub struct IntoBody<B>(PhantomData<fn() -> B>);

impl<B> Sealed for IntoBody<B> {}

impl<ReqBody, B: From<Bytes> + Send> HandOn<ReqBody> for IntoBody<B> {
    type Body = B;
}
