//! The merchant's own token, as eCom, Checkout and Express send it back.

use std::{
    fmt,
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, header, request::Parts};
use subtle::Choice;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    ResponseFuture, SecretSource, Secrets, Token,
    gate::Gate,
    webhook::{one, request_uri},
};
use crate::{
    MessageAuth, MessageRejection,
    MessageRejectionKind::{Token as NotTheToken, UnknownKey},
    MessageVerdict, PlainText, RejectionResponse, VerifiedMessage,
    check::{Undelivered, refuse_parts},
};

/// Wraps services in [`VerifyToken`].
///
/// The `Authorization` header must be there once and be one of the tokens, verbatim. The body is not
/// read. A token covers nothing of the request: whoever has read one can send any body with it.
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
/// A token for each order comes from a closure, by the path of the request:
///
/// ```
/// use callback_source::signature::{Secrets, Token, VerifyTokenLayer};
///
/// VerifyTokenLayer::rejecting(|path: Option<String>| async move {
///     let order = path.as_deref().and_then(|path| path.strip_prefix("/v2/payments/"));
///     match order {
///         // From the database, rather.
///         Some(order) => Token::new(format!("token-of-{order}")).map(Secrets::from),
///         None => Ok(Secrets::default()),
///     }
/// });
/// ```
#[must_use]
pub struct VerifyTokenLayer<K, R = PlainText> {
    gate: Gate<K>,
    response: R,
}

impl<K: SecretSource<Token>> VerifyTokenLayer<K> {
    /// Refuses what does not carry one of the tokens.
    pub fn rejecting(tokens: K) -> Self {
        Self::new(tokens, false)
    }

    /// Lets everything through, with the [`MessageVerdict`] in the request's extensions.
    pub fn tagging(tokens: K) -> Self {
        Self::new(tokens, true)
    }

    fn new(tokens: K, tagging: bool) -> Self {
        let path = |parts: &Parts| Some(request_uri(parts).path().to_owned());
        Self {
            gate: Gate::new(tokens, tagging, path),
            response: PlainText,
        }
    }
}

impl<K, R> VerifyTokenLayer<K, R> {
    /// By what the source is asked for tokens, instead of the path. `None`, or nothing in it, is no id.
    pub fn select_by(
        mut self,
        id: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.gate.select_by(id);
        self
    }

    /// The time within which the source must give the tokens. Default: two seconds.
    pub fn secret_time_limit(mut self, limit: Duration) -> Self {
        self.gate.lookup_limit(limit);
        self
    }

    /// Makes the responses to refused requests in another way. Does nothing to a layer that tags.
    pub fn with_response<T>(self, response: T) -> VerifyTokenLayer<K, T> {
        VerifyTokenLayer {
            gate: self.gate,
            response,
        }
    }
}

impl<S, K, R: Clone> Layer<S> for VerifyTokenLayer<K, R> {
    type Service = VerifyToken<S, K, R>;

    fn layer(&self, inner: S) -> Self::Service {
        VerifyToken {
            inner,
            gate: Arc::new(self.gate.clone()),
            response: self.response.clone(),
        }
    }
}

impl<K, R: Clone> Clone for VerifyTokenLayer<K, R> {
    fn clone(&self) -> Self {
        Self {
            gate: self.gate.clone(),
            response: self.response.clone(),
        }
    }
}

impl<K, R> fmt::Debug for VerifyTokenLayer<K, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyTokenLayer")
            .field("gate", &self.gate)
            .finish_non_exhaustive()
    }
}

/// Calls the inner service only for callbacks that carry the token, or marks those that do not. See
/// [`VerifyTokenLayer`] for an example.
pub struct VerifyToken<S, K, R = PlainText> {
    inner: S,
    gate: Arc<Gate<K>>,
    response: R,
}

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
    type Future = ResponseFuture<S::Response, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        // Not the one that was found ready: it may hold one of the inner service's places while the proof
        // is being checked.
        let mut inner = self.inner.clone();
        self.inner = inner.clone();
        let gate = Arc::clone(&self.gate);
        let response = self.response.clone();
        ResponseFuture::new(async move {
            let (mut parts, body) = request.into_parts();
            let undelivered = Undelivered::new(&parts.extensions);
            // A handler that prints the headers does not print the token.
            for (name, value) in &mut parts.headers {
                if name == header::AUTHORIZATION {
                    value.set_sensitive(true);
                }
            }
            let verdict = match check(&gate, &parts).await {
                Ok(()) => MessageVerdict::Allow(VerifiedMessage {
                    auth: MessageAuth::Token,
                    date: None,
                }),
                Err(rejection) => MessageVerdict::Reject(rejection),
            };
            match gate.act(verdict, &mut parts.extensions) {
                Ok(()) => {
                    poll_fn(|cx| inner.poll_ready(cx)).await?;
                    undelivered.deliver();
                    inner.call(Request::from_parts(parts, body)).await
                }
                Err(rejection) => Ok(refuse_parts(&response, &rejection, &parts)),
            }
        })
    }
}

async fn check<K>(gate: &Gate<K>, parts: &Parts) -> Result<(), MessageRejection>
where
    K: SecretSource<Token>,
{
    // Before the look-up, so that a request without a token costs none.
    let value = one(&parts.headers, &header::AUTHORIZATION, "authorization")?;
    check_token(value.as_bytes(), &gate.secrets(parts).await?)
}

/// Compares with every token, and none of the comparisons ends early. Digests are compared, so that
/// the time says nothing of a token's length. For the benchmark that guards this.
#[doc(hidden)]
pub fn check_token(value: &[u8], expected: &Secrets<Token>) -> Result<(), MessageRejection> {
    let token = Token::hashed(value);
    if expected.is_empty() {
        let _ = std::hint::black_box(token.ct_eq(&Token::hashed(b"")));
        return Err(MessageRejection::new(UnknownKey));
    }
    let mut equal = Choice::from(0);
    for expected in expected.iter() {
        equal |= token.ct_eq(expected);
    }
    if bool::from(equal) {
        Ok(())
    } else {
        Err(MessageRejection::new(NotTheToken))
    }
}

impl<S: Clone, K, R: Clone> Clone for VerifyToken<S, K, R> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            gate: Arc::clone(&self.gate),
            response: self.response.clone(),
        }
    }
}

impl<S, K, R> fmt::Debug for VerifyToken<S, K, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyToken")
            .field("gate", &self.gate)
            .finish_non_exhaustive()
    }
}
