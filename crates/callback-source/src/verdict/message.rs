//! The verdict of a message check.

use std::{
    error::Error,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::StatusCode;

use super::source::RETRY_AFTER;

/// Decision of a message check on a callback's signature or token.
///
/// | verdict | when | response |
/// |---|---|---|
/// | [`Allow`](Self::Allow) | the signature or the token is valid | the inner service's |
/// | [`Reject`](Self::Reject) | the signature or the token is missing or invalid | 401 with `WWW-Authenticate` |
/// | … [`Replay`](MessageRejectionKind::Replay) | the same request was accepted before | 409 |
/// | … [`BodyTooLarge`](MessageRejectionKind::BodyTooLarge) | the body has more bytes than the layer's limit | 413 |
/// | … [`BodyTimeout`](MessageRejectionKind::BodyTimeout) | the body did not arrive in time | 408 |
/// | … [`BodyAborted`](MessageRejectionKind::BodyAborted) | the body ended early | 400 |
/// | … [`SecretUnavailable`](MessageRejectionKind::SecretUnavailable) | the secrets are not available | 503 with `Retry-After` |
/// | … [`ReplayStoreUnavailable`](MessageRejectionKind::ReplayStoreUnavailable) | the store of a [`ReplayGuard`](crate::signature::ReplayGuard) that requires it is not available | 503 with `Retry-After` |
///
/// Both message layers add the verdict to the request's extensions. A custom layer, for another provider's signatures,
/// can also add its verdict there. A [`Policy`](crate::Policy) then joins that verdict with the verdict of the source
/// check:
///
/// ```
/// use std::convert::Infallible;
/// use callback_source::{
///     AllowList, MessageAuth, MessageRejection, MessageRejectionKind, MessageVerdict, Policy, VerifiedMessage,
///     require::RequireVerifiedLayer,
///     verify::{SocketAddrPeer, VerifySourceLayer},
/// };
/// use http::{Request, Response, StatusCode};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// /// The check of the other provider, which sends a key.
/// fn verify(mut request: Request<()>) -> Request<()> {
///     let verdict = match request.headers().get("x-key") {
///         Some(key) if key == "k3y" => MessageVerdict::Allow(VerifiedMessage::new(MessageAuth::Token, None)),
///         Some(_) => MessageVerdict::Reject(MessageRejection::new(MessageRejectionKind::Token)),
///         None => MessageVerdict::Reject(MessageRejection::new(MessageRejectionKind::MissingHeader)),
///     };
///     request.extensions_mut().insert(verdict);
///     request
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let merchant = service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new("shipped")));
/// let list = AllowList::fixed(["192.0.2.1".parse()?]);
/// let service = ServiceBuilder::new()
///     .layer(VerifySourceLayer::tagging(list, SocketAddrPeer))
///     .map_request(verify)
///     .layer(RequireVerifiedLayer::new(Policy::Both))
///     .service(merchant);
///
/// let callback = |key: &str| -> Result<_, Box<dyn std::error::Error>> {
///     let mut request = Request::post("/callbacks").header("x-key", key).body(())?;
///     request.extensions_mut().insert("192.0.2.1:4711".parse::<std::net::SocketAddr>()?);
///     Ok(request)
/// };
/// let response = service.clone().oneshot(callback("k3y")?).await?;
/// assert_eq!(response.status(), StatusCode::OK);
/// let response = service.oneshot(callback("guess")?).await?;
/// assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub enum MessageVerdict {
    /// The signature or token is valid.
    Allow(VerifiedMessage),
    /// The message is not verified: it is invalid, is a replay, or cannot be checked.
    Reject(MessageRejection),
}

impl MessageVerdict {
    /// Returns `true` for a message that was verified.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }

    /// The message that was verified.
    #[must_use]
    pub fn allowed(&self) -> Option<&VerifiedMessage> {
        match self {
            Self::Allow(message) => Some(message),
            Self::Reject(_) => None,
        }
    }

    /// The reason why the message was not verified.
    #[must_use]
    pub fn rejection(&self) -> Option<&MessageRejection> {
        match self {
            Self::Allow(_) => None,
            Self::Reject(rejection) => Some(rejection),
        }
    }
}

/// A message whose signature or token is valid.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use callback_source::{MessageAuth, VerifiedMessage};
///
/// /// A signature covers the body. With a token, ask the provider's API for the state of the payment.
/// fn is_body_trusted(message: &VerifiedMessage) -> bool {
///     message.auth() == MessageAuth::Signature
/// }
///
/// let signed_at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
/// let webhook = VerifiedMessage::new(MessageAuth::Signature, Some(signed_at));
/// assert!(is_body_trusted(&webhook));
/// assert_eq!(webhook.date(), Some(signed_at));
/// assert!(!is_body_trusted(&VerifiedMessage::new(MessageAuth::Token, None)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedMessage {
    pub(crate) auth: MessageAuth,
    pub(crate) date: Option<SystemTime>,
}

impl VerifiedMessage {
    /// Creates a verified message. `auth` is the means by which the message was verified. `date` is the time at which
    /// the sender signed the message, if the signature covers a date.
    ///
    /// The layers of the module `signature` create such messages. Call this function in a custom layer that verifies
    /// the messages of another provider. See [`MessageVerdict`] for an example.
    #[must_use]
    pub fn new(auth: MessageAuth, date: Option<SystemTime>) -> Self {
        Self { auth, date }
    }

    /// The means by which the message was verified.
    #[must_use]
    pub fn auth(&self) -> MessageAuth {
        self.auth
    }

    /// Time at which the sender signed the message. `None` if no date was signed, as with a token.
    #[must_use]
    pub fn date(&self) -> Option<SystemTime> {
        self.date
    }
}

/// Means by which a message is verified.
///
/// See [`VerifiedMessage`] for an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MessageAuth {
    /// An HMAC of the method, path and query, date, host, and hash of the body.
    Signature,
    /// The merchant's own `Authorization` value, which does not cover any part of the request.
    Token,
}

/// The reason why a message was not verified.
///
/// A rejecting layer adds it to the extensions of the response, like a [`Rejection`](crate::Rejection). The text of the
/// response is the same for an unknown registration and for a wrong signature. The reason differs, so that the
/// service's own log can distinguish these cases:
///
/// ```
/// use std::convert::Infallible;
/// use callback_source::{MessageRejection, MessageRejectionKind};
/// use callback_source::signature::{Token, VerifyTokenLayer};
/// use http::{Request, Response};
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let merchant = service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new("shipped")));
/// let service = VerifyTokenLayer::rejecting(Token::new("s3cret")?).layer(merchant);
///
/// let response = service.oneshot(Request::new(())).await?;
/// let rejection = response.extensions().get::<MessageRejection>().expect("it was refused");
/// assert_eq!(rejection.kind(), MessageRejectionKind::MissingHeader);
/// assert_eq!(rejection.to_string(), "missing-header `authorization`");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct MessageRejection {
    kind: MessageRejectionKind,
    header: Option<&'static str>,
    cause: Option<Arc<dyn Error + Send + Sync>>,
}

impl MessageRejection {
    /// Creates a rejection for this reason.
    #[must_use]
    pub fn new(kind: MessageRejectionKind) -> Self {
        Self {
            kind,
            header: None,
            cause: None,
        }
    }

    pub(crate) fn for_header(kind: MessageRejectionKind, header: &'static str) -> Self {
        Self {
            header: Some(header),
            ..Self::new(kind)
        }
    }

    /// Creates a rejection with the failure that caused it.
    pub(crate) fn with_cause(
        kind: MessageRejectionKind,
        cause: Arc<dyn Error + Send + Sync>,
    ) -> Self {
        Self {
            cause: Some(cause),
            ..Self::new(kind)
        }
    }

    /// The kind of this rejection.
    #[must_use]
    pub fn kind(&self) -> MessageRejectionKind {
        self.kind
    }

    /// Name of the header that is missing, duplicated, malformed or of an unsupported form.
    #[must_use]
    pub fn header(&self) -> Option<&'static str> {
        self.header
    }

    /// The status of the response: 401, 409, 413, 408, 400 or 503.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.kind.status()
    }

    /// The text of the response, which is a single line.
    #[must_use]
    pub fn body_text(&self) -> &'static str {
        self.kind.description()
    }

    /// Pause before the sender's next try. `None` unless the verdict is undecided.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.kind.is_undecided().then_some(RETRY_AFTER)
    }
}

/// Shows the reason and the header that it concerns, such as ``missing-header `authorization` ``. Contains no value
/// from the request.
impl fmt::Display for MessageRejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)?;
        match self.header {
            Some(header) => write!(f, " `{header}`"),
            None => Ok(()),
        }
    }
}

impl Error for MessageRejection {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

/// Reasons of a [`MessageRejection`].
///
/// ```
/// use callback_source::MessageRejectionKind;
///
/// /// The likely cause, for whoever is on duty.
/// fn cause(kind: MessageRejectionKind) -> &'static str {
///     use MessageRejectionKind::{ContentHash, DateAhead, DateStale, SecretUnavailable, Signature};
///     match kind {
///         DateStale | DateAhead => "the clock of this machine, or a replay",
///         Signature => "a proxy that rewrites host or path, or the secret of another registration",
///         ContentHash => "a layer that changes the body before the check",
///         SecretUnavailable => "the secret store",
///         _ => "not the provider",
///     }
/// }
///
/// assert_eq!(cause(MessageRejectionKind::SecretUnavailable), "the secret store");
/// assert_eq!(MessageRejectionKind::SecretUnavailable.status(), 503);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MessageRejectionKind {
    /// A header of the signature, or the token, is missing.
    MissingHeader,
    /// A header of the signature, or the token, is present more than once. This is also the reason if two headers that
    /// must be equal differ.
    DuplicateHeader,
    /// A header of the signature is malformed.
    MalformedHeader,
    /// The algorithm of the signature is not `HMAC-SHA256`.
    Algorithm,
    /// The signature does not cover exactly the headers `x-ms-date;host;x-ms-content-sha256`.
    SignedHeaders,
    /// The date of the request is too far in the past.
    DateStale,
    /// The date of the request is too far in the future, so the sender's clock or the service's clock is wrong.
    DateAhead,
    /// None of the known secrets signed this method, path, date, host and hash.
    Signature,
    /// No secret, or no token, is known for this request.
    UnknownKey,
    /// The body does not have the signed hash.
    ContentHash,
    /// The same request was accepted before.
    Replay,
    /// The token is not one of the expected tokens.
    Token,
    /// The body is larger than the layer's limit.
    BodyTooLarge,
    /// The body did not arrive in time.
    BodyTimeout,
    /// The body ended early.
    BodyAborted,
    /// The secrets, or tokens, are not available right now, so the message was not checked. A retry can succeed.
    SecretUnavailable,
    /// The store of the replay guard is not available right now, and the guard requires it. A retry can succeed.
    ReplayStoreUnavailable,
}

impl MessageRejectionKind {
    /// The name in lower case, for logs and metrics: `missing-header`, `signature`, …
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MissingHeader => "missing-header",
            Self::DuplicateHeader => "duplicate-header",
            Self::MalformedHeader => "malformed-header",
            Self::Algorithm => "algorithm",
            Self::SignedHeaders => "signed-headers",
            Self::DateStale => "date-stale",
            Self::DateAhead => "date-ahead",
            Self::Signature => "signature",
            Self::UnknownKey => "unknown-key",
            Self::ContentHash => "content-hash",
            Self::Replay => "replay",
            Self::Token => "token",
            Self::BodyTooLarge => "body-too-large",
            Self::BodyTimeout => "body-timeout",
            Self::BodyAborted => "body-aborted",
            Self::SecretUnavailable => "secret-unavailable",
            Self::ReplayStoreUnavailable => "replay-store-unavailable",
        }
    }

    /// The status of the response: 401, 409, 413, 408, 400 or 503. It is never 2xx, which would tell the sender
    /// that the callback was delivered.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::MissingHeader
            | Self::DuplicateHeader
            | Self::MalformedHeader
            | Self::Algorithm
            | Self::SignedHeaders
            | Self::DateStale
            | Self::DateAhead
            | Self::Signature
            | Self::UnknownKey
            | Self::ContentHash
            | Self::Token => StatusCode::UNAUTHORIZED,
            Self::Replay => StatusCode::CONFLICT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::BodyAborted => StatusCode::BAD_REQUEST,
            Self::SecretUnavailable | Self::ReplayStoreUnavailable => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    /// Returns `true` if the verdict is undecided. The same request may then be admitted on another try.
    pub(crate) fn is_undecided(self) -> bool {
        matches!(self, Self::SecretUnavailable | Self::ReplayStoreUnavailable)
    }

    // The text is the same for an unknown key and a wrong signature, so that the response does not reveal which
    // registrations exist.
    fn description(self) -> &'static str {
        match self {
            Self::MissingHeader => "the signature or token is missing\n",
            Self::DuplicateHeader => "a header of the signature is present twice\n",
            Self::MalformedHeader => "a header of the signature is malformed\n",
            Self::Algorithm => "the signature must be HMAC-SHA256\n",
            Self::SignedHeaders => "the signature covers other headers\n",
            Self::DateStale => "the request was signed too long ago\n",
            Self::DateAhead => "the request was signed in the future\n",
            Self::Signature | Self::UnknownKey | Self::Token => {
                "the signature or token is invalid\n"
            }
            Self::ContentHash => "the body is not the one that was signed\n",
            Self::Replay => "this request was received before\n",
            Self::BodyTooLarge => "the body is too large\n",
            Self::BodyTimeout => "the body took too long to arrive\n",
            Self::BodyAborted => "the body ended early\n",
            Self::SecretUnavailable => "the signature cannot be checked right now, try again\n",
            Self::ReplayStoreUnavailable => {
                "a repetition cannot be ruled out right now, try again\n"
            }
        }
    }
}

impl fmt::Display for MessageRejectionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
