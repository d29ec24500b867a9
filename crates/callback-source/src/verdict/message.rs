//! Whether a callback carries its own proof, and why not.

use std::{
    error::Error,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::StatusCode;

use super::source::RETRY_AFTER;

/// What is said of a callback's own proof. Both message layers leave one in the request's extensions.
///
/// | verdict | when | response |
/// |---|---|---|
/// | [`Allow`](Self::Allow) | the signature or the token is right | the inner service's |
/// | [`Reject`](Self::Reject) | it is missing or not right | 401 with `WWW-Authenticate` |
/// | … [`Replay`](MessageRejectionKind::Replay) | the very same request was accepted before | 409 |
/// | … [`BodyTooLarge`](MessageRejectionKind::BodyTooLarge) | more bytes than the limit | 413 |
/// | … [`BodyTimeout`](MessageRejectionKind::BodyTimeout) | the body did not arrive in time | 408 |
/// | … [`BodyAborted`](MessageRejectionKind::BodyAborted) | the body broke off | 400 |
/// | … [`SecretUnavailable`](MessageRejectionKind::SecretUnavailable) | the secrets cannot be had: cannot decide | 503 with `Retry-After` |
#[derive(Clone, Debug)]
#[must_use]
pub enum MessageVerdict {
    /// The callback's own proof is right.
    Allow(VerifiedMessage),
    /// It is missing, not right, or cannot be checked.
    Reject(MessageRejection),
}

impl MessageVerdict {
    /// Whether the proof is right.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }

    /// What is known of a right proof.
    #[must_use]
    pub fn allowed(&self) -> Option<&VerifiedMessage> {
        match self {
            Self::Allow(signed) => Some(signed),
            Self::Reject(_) => None,
        }
    }

    /// Why the proof does not count.
    #[must_use]
    pub fn rejection(&self) -> Option<&MessageRejection> {
        match self {
            Self::Allow(_) => None,
            Self::Reject(rejection) => Some(rejection),
        }
    }
}

/// A proof that is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedMessage {
    pub(crate) auth: MessageAuth,
    pub(crate) date: Option<SystemTime>,
}

impl VerifiedMessage {
    /// What the callback proved itself with.
    #[must_use]
    pub fn auth(&self) -> MessageAuth {
        self.auth
    }

    /// When the sender signed it; `None` for a token, which says nothing of time.
    #[must_use]
    pub fn date(&self) -> Option<SystemTime> {
        self.date
    }
}

/// The two ways in which a callback proves itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MessageAuth {
    /// An HMAC over method, path, date, host and body.
    Signature,
    /// The merchant's own `Authorization` value. It covers nothing of the request.
    Token,
}

/// Why a callback's own proof does not count.
#[derive(Clone, Debug)]
pub struct MessageRejection {
    kind: MessageRejectionKind,
    header: Option<&'static str>,
    cause: Option<Arc<dyn Error + Send + Sync>>,
}

impl MessageRejection {
    /// A rejection for this reason.
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

    pub(crate) fn unavailable(cause: Arc<dyn Error + Send + Sync>) -> Self {
        Self {
            cause: Some(cause),
            ..Self::new(MessageRejectionKind::SecretUnavailable)
        }
    }

    /// The reason.
    #[must_use]
    pub fn kind(&self) -> MessageRejectionKind {
        self.kind
    }

    /// The name of the header that is missing, duplicated or malformed.
    #[must_use]
    pub fn header(&self) -> Option<&'static str> {
        self.header
    }

    /// The status of the response: 401, 409, 413, 408, 400 or 503.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.kind.status()
    }

    /// After how long the sender should try again; only where a retry can end otherwise.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.kind.is_undecided().then_some(RETRY_AFTER)
    }
}

impl fmt::Display for MessageRejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.as_str())?;
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

/// The reasons of a [`MessageRejection`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MessageRejectionKind {
    /// A header of the proof is not there.
    MissingHeader,
    /// A header of the proof is there twice, or two that must agree do not.
    DuplicateHeader,
    /// A header of the proof is not in its form.
    MalformedHeader,
    /// The signature is of another algorithm than `HMAC-SHA256`.
    Algorithm,
    /// The signature is over other headers than `x-ms-date;host;x-ms-content-sha256`.
    SignedHeaders,
    /// The request was signed too long ago.
    DateStale,
    /// The request was signed too far in the future: one of the two clocks is wrong.
    DateAhead,
    /// The signature is not that of a known secret over this method, path, date, host and hash.
    Signature,
    /// There is no secret, or no token, for this request.
    UnknownKey,
    /// The body is not the one that was signed.
    ContentHash,
    /// The very same request was accepted before.
    Replay,
    /// The token is not one of those expected.
    Token,
    /// The body is larger than the limit.
    BodyTooLarge,
    /// The body did not arrive in time.
    BodyTimeout,
    /// The body broke off.
    BodyAborted,
    /// The secrets, or tokens, cannot be had right now: it cannot be said whether the proof is
    /// right. Worth a retry.
    SecretUnavailable,
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
        }
    }

    /// The status of the response: 401, 409, 413, 408, 400 or 503. Never 2xx: the sender would
    /// believe that the callback was delivered.
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
            Self::SecretUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Whether it could not be decided: the same request may be right on another try.
    pub(crate) fn is_undecided(self) -> bool {
        self == Self::SecretUnavailable
    }

    // An unknown key and a wrong signature read the same: a stranger learns nothing about which
    // registrations there are.
    pub(crate) fn description(self) -> &'static str {
        match self {
            Self::MissingHeader => "the signature or token is missing\n",
            Self::DuplicateHeader => "a header of the signature is there twice\n",
            Self::MalformedHeader => "a header of the signature is malformed\n",
            Self::Algorithm => "the signature must be of HMAC-SHA256\n",
            Self::SignedHeaders => "the signature is over other headers\n",
            Self::DateStale => "the request was signed too long ago\n",
            Self::DateAhead => "the request was signed in the future\n",
            Self::Signature | Self::UnknownKey | Self::Token => {
                "the signature or token is not right\n"
            }
            Self::ContentHash => "the body is not the one that was signed\n",
            Self::Replay => "this very request was received before\n",
            Self::BodyTooLarge => "the body is too large\n",
            Self::BodyTimeout => "the body took too long\n",
            Self::BodyAborted => "the body broke off\n",
            Self::SecretUnavailable => "the signature cannot be checked right now, try again\n",
        }
    }
}
