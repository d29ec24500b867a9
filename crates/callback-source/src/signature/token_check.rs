//! The check of the merchant's own token, which eCom, Checkout and Express send back.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, header, request::Parts};
use tower_layer::Layer;
use tower_service::Service;

use super::{
    SecretSource, Token,
    message_check::MessageCheck,
    webhook::{one, request_uri},
};
use crate::{
    MessageAuth, MessageRejection, MessageVerdict, PlainText, RejectionResponse, ResponseFuture,
    VerifiedMessage,
    check::{Begun, Check, Checked, Delivered, Mode},
};

/// Wraps services in [`VerifyToken`].
///
/// The `Authorization` header must be present exactly once and equal one of the tokens, verbatim. The body is not
/// read. A token does not cover any part of the request, so anyone who has seen a token can send any body with it.
///
/// ```
/// use std::convert::Infallible;
/// use callback_source::signature::{Secrets, Token, VerifyTokenLayer};
/// use http::{Request, Response, StatusCode};
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let merchant = service_fn(async |_: Request<()>| {
///     Ok::<_, Infallible>(Response::new("shipped".to_owned()))
/// });
/// let old_and_new = Secrets::from_iter([Token::new("s3cret-2025")?, Token::new("s3cret-2026")?]);
/// let service = VerifyTokenLayer::rejecting(old_and_new).layer(merchant);
///
/// let callback = |token: &str| Request::post("/v2/payments/1").header("authorization", token).body(());
/// let response = service.clone().oneshot(callback("s3cret-2026")?).await?;
/// assert_eq!(response.status(), StatusCode::OK);
/// let response = service.oneshot(callback("s3cret-2024")?).await?;
/// assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
/// # Ok(())
/// # }
/// ```
///
/// A closure can look up a separate token for each order by the path of the request:
///
/// ```
/// use callback_source::signature::{Secrets, Token, VerifyTokenLayer};
///
/// VerifyTokenLayer::rejecting(|path: Option<String>| async move {
///     let order = path.as_deref().and_then(|path| path.strip_prefix("/v2/payments/"));
///     match order {
///         // In practice, from the database.
///         Some(order) => Token::new(format!("token-of-{order}")).map(Secrets::from),
///         None => Ok(Secrets::default()),
///     }
/// });
/// ```
#[must_use]
pub struct VerifyTokenLayer<K, R = PlainText> {
    message: MessageCheck<K>,
    response: R,
}

impl<K: SecretSource<Token>> VerifyTokenLayer<K> {
    /// Refuses requests without one of the tokens. See the [type](Self) for an example.
    pub fn rejecting(tokens: K) -> Self {
        Self::new(tokens, Mode::Rejecting)
    }

    /// Hands on every request, with the [`MessageVerdict`] in its extensions. The handler can then treat callbacks
    /// without the token differently. For example, a callback for an order that is older than the shop's token contains
    /// no token:
    ///
    /// ```
    /// use std::convert::Infallible;
    /// use callback_source::{MessageVerdict, signature::{Token, VerifyTokenLayer}};
    /// use http::{Request, Response};
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let merchant = service_fn(async |request: Request<()>| {
    ///     let verdict = request.extensions().get::<MessageVerdict>();
    ///     let text = match verdict.is_some_and(MessageVerdict::is_allowed) {
    ///         true => "shipped",
    ///         false => "asked the provider's API first",
    ///     };
    ///     Ok::<_, Infallible>(Response::new(text))
    /// });
    /// let service = VerifyTokenLayer::tagging(Token::new("s3cret")?).layer(merchant);
    /// let response = service.oneshot(Request::new(())).await?;
    /// assert_eq!(response.into_body(), "asked the provider's API first");
    /// # Ok(())
    /// # }
    /// ```
    pub fn tagging(tokens: K) -> Self {
        Self::new(tokens, Mode::Tagging { headers: false })
    }

    fn new(tokens: K, mode: Mode) -> Self {
        let path = |parts: &Parts| Some(request_uri(parts).path().to_owned());
        Self {
            message: MessageCheck::new(tokens, mode, path),
            response: PlainText,
        }
    }
}

impl<K, R> VerifyTokenLayer<K, R> {
    /// Returns the same layer in another mode. `CallbackRoutes` chooses the mode by the policy.
    #[cfg(feature = "axum")]
    pub(crate) fn in_mode(mut self, mode: Mode) -> Self {
        self.message.in_mode(mode);
        self
    }

    /// Replaces the function that reads the id by which tokens are looked up. By default, the id is the path. `None`
    /// and an empty text mean that the request has no id.
    ///
    /// See [`VerifySignatureLayer::select_by`](super::VerifySignatureLayer::select_by) for an example.
    pub fn select_by(
        mut self,
        id: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.message.select_by(id);
        self
    }

    /// Sets the time within which the source must return the tokens. Default: two seconds, no bounds. If a lookup takes
    /// longer, a rejecting layer responds with 503.
    /// [`VerifySignatureLayer::secret_time_limit`](super::VerifySignatureLayer::secret_time_limit) has an example.
    pub fn secret_time_limit(mut self, limit: Duration) -> Self {
        self.message.lookup_limit(limit);
        self
    }

    /// Replaces the responses to refused requests. Has no effect on a tagging layer.
    /// [`VerifySignatureLayer::with_response`](super::VerifySignatureLayer::with_response) has an example.
    pub fn with_response<T>(self, response: T) -> VerifyTokenLayer<K, T> {
        VerifyTokenLayer {
            message: self.message,
            response,
        }
    }
}

impl<S, K, R: Clone> Layer<S> for VerifyTokenLayer<K, R> {
    type Service = VerifyToken<S, K, R>;

    fn layer(&self, inner: S) -> Self::Service {
        VerifyToken(Checked {
            inner,
            check: TokenCheck(Arc::new(self.message.clone())),
            response: self.response.clone(),
        })
    }
}

impl<K, R: Clone> Clone for VerifyTokenLayer<K, R> {
    fn clone(&self) -> Self {
        Self {
            message: self.message.clone(),
            response: self.response.clone(),
        }
    }
}

impl<K, R> fmt::Debug for VerifyTokenLayer<K, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyTokenLayer")
            .field("message", &self.message)
            .finish_non_exhaustive()
    }
}

/// Calls the inner service only for callbacks with one of the tokens. In tagging mode, the other callbacks are tagged
/// instead of refused. See [`VerifyTokenLayer`] for an example.
pub struct VerifyToken<S, K, R = PlainText>(Checked<S, TokenCheck<K>, R>);

impl<S, K, R, ReqBody, ResBody> Service<Request<ReqBody>> for VerifyToken<S, K, R>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone + Send + 'static,
    S::Future: Send,
    K: SecretSource<Token>,
    R: RejectionResponse<ResBody, MessageRejection> + Clone + Send + 'static,
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

impl<S: Clone, K, R: Clone> Clone for VerifyToken<S, K, R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S, K, R> fmt::Debug for VerifyToken<S, K, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyToken")
            .field("message", &self.0.check.0)
            .finish_non_exhaustive()
    }
}

struct TokenCheck<K>(Arc<MessageCheck<K>>);

impl<K> Clone for TokenCheck<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K, B> Check<B> for TokenCheck<K>
where
    K: SecretSource<Token>,
    B: Send,
{
    type Body = B;
    type Rejection = MessageRejection;
    type Pending = B;
    type Found = ();

    fn begin(&self, parts: &mut Parts, body: B) -> Begun<B, B, MessageRejection> {
        // Even a handler that prints the headers does not print the token.
        for (name, value) in &mut parts.headers {
            if name == header::AUTHORIZATION {
                value.set_sensitive(true);
            }
        }
        Begun::Pending(body)
    }

    async fn finish(&self, body: B, parts: &mut Parts) -> Result<(B, ()), MessageRejection> {
        let verdict = match self.check(parts).await {
            Ok(()) => MessageVerdict::Allow(VerifiedMessage {
                auth: MessageAuth::Token,
                date: None,
            }),
            Err(rejection) => MessageVerdict::Reject(rejection),
        };
        self.0.act(verdict, &mut parts.extensions)?;
        Ok((body, ()))
    }

    async fn accept(&self, (): (), _: &mut Parts) -> Result<Option<Delivered>, MessageRejection> {
        Ok(None)
    }
}

impl<K: SecretSource<Token>> TokenCheck<K> {
    async fn check(&self, parts: &Parts) -> Result<(), MessageRejection> {
        // The header is read before the lookup, so that a request without a token causes no lookup.
        let value = one(&parts.headers, &header::AUTHORIZATION, "authorization")?;
        self.0.secrets(parts).await?.check(value.as_bytes())
    }
}
