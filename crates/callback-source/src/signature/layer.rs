//! The layer and the service of the Webhooks API's signatures.

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
/// another one ([`with_body`](Self::with_body)).
#[must_use]
pub struct VerifySignatureLayer<K, R = PlainText, H = SameBody> {
    settings: Settings<K>,
    response: R,
    hand_on: PhantomData<fn() -> H>,
}

impl<K: SecretSource> VerifySignatureLayer<K> {
    /// Refuses requests that are not signed with one of the secrets.
    pub fn rejecting(keys: K) -> Self {
        Self::new(keys, Mode::Rejecting)
    }

    /// Hands on every request, with the [`MessageVerdict`](crate::MessageVerdict) in its extensions: to try the
    /// check out, or to decide in the handler.
    ///
    /// It still refuses a request whose body is too large, too slow or incomplete, since it cannot hand that on.
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
    /// The same layer in another mode, for callers that know what enforces the verdict.
    #[cfg(feature = "axum")]
    pub(crate) fn in_mode(mut self, mode: Mode) -> Self {
        self.settings.message.in_mode(mode);
        self
    }

    /// Sets the maximum difference between the date of a request and the clock. Default: five minutes.
    pub fn window(mut self, window: Duration) -> Self {
        self.settings.window = window;
        self
    }

    /// Replaces the system's clock, for tests.
    pub fn clock(mut self, now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.settings.clock = Arc::new(now);
        self
    }

    /// Pins the host to that of the registered URL, including a port other than 443, for a proxy that does not
    /// preserve it. The request's own host is then ignored.
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

    /// Pins path and query to those of the registered URL, for a proxy that does not preserve them. The request's
    /// own are then ignored, so put the layer on that one route only. See [`host`](Self::host) for an example.
    pub fn path(mut self, path: PathAndQuery) -> Self {
        // Unlike `as_str`, it adds a `/` before a bare query.
        self.settings.path = Some(path.to_string());
        self
    }

    /// Sets the maximum length of a body. Default: 256 KiB.
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.settings.limits.bytes = bytes;
        self
    }

    /// Sets the time within which the whole body must arrive. Default: five seconds.
    pub fn body_time_limit(mut self, limit: Duration) -> Self {
        self.settings.limits.time = limit;
        self
    }

    /// Replaces the `webhook-id` as the id by which secrets are looked up, for example by the sale unit in the
    /// path. `None` and an empty text mean that the request has no id.
    ///
    /// The request has not been verified at this point.
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

    /// Sets the time within which the source must return the secrets. Default: two seconds.
    pub fn secret_time_limit(mut self, limit: Duration) -> Self {
        self.settings.message.lookup_limit(limit);
        self
    }

    /// Refuses a repetition of the same request within the window. Off by default.
    ///
    /// See [`ReplayGuard`] for an example.
    pub fn replay_guard(mut self, guard: ReplayGuard) -> Self {
        self.settings.replay = Some(guard);
        self
    }

    /// Replaces the responses to refused requests, see [`RejectionResponse`] for an example.
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

/// Calls the inner service only for deliveries that are signed, or tags the others. See the
/// [module docs](super) for an example.
///
/// The inner service must be [`Clone`]: a request waits for its body after the inner service was found ready.
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

/// The body is handed on in its own type, such as `axum::body::Body`.
#[derive(Clone, Copy, Debug)]
pub struct SameBody(());

impl Sealed for SameBody {}

impl<B: From<Bytes> + Send> HandOn<B> for SameBody {
    type Body = B;
}

/// The body is handed on as a `B`.
#[derive(Clone, Copy, Debug)]
pub struct IntoBody<B>(PhantomData<fn() -> B>);

impl<B> Sealed for IntoBody<B> {}

impl<ReqBody, B: From<Bytes> + Send> HandOn<ReqBody> for IntoBody<B> {
    type Body = B;
}
