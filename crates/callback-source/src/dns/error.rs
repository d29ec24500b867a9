//! Errors of a question: denials and failures.

use std::{error::Error, fmt, sync::Arc, time::Duration};

/// Why a question has no addresses for an answer.
#[derive(Clone, Debug)]
pub struct ResolveError {
    kind: ResolveErrorKind,
    negative_ttl: Option<Duration>,
    cause: Option<Arc<dyn Error + Send + Sync>>,
}

impl ResolveError {
    /// An error of this kind.
    #[must_use]
    pub fn new(kind: ResolveErrorKind) -> Self {
        Self {
            kind,
            negative_ttl: None,
            cause: None,
        }
    }

    /// For how long a denial holds (RFC 2308: the lesser of the SOA record's TTL and its MINIMUM).
    /// Without it, 60 seconds. Does nothing to errors that are no denial.
    #[must_use]
    pub fn with_negative_ttl(mut self, ttl: Duration) -> Self {
        self.negative_ttl = Some(ttl);
        self
    }

    /// What lies below the error, its [`source`](Error::source).
    #[must_use]
    pub fn with_cause(mut self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.cause = Some(Arc::from(cause.into()));
        self
    }

    /// The kind of the error.
    #[must_use]
    pub fn kind(&self) -> ResolveErrorKind {
        self.kind
    }

    /// For how long a denial holds, if the servers said so.
    #[must_use]
    pub fn negative_ttl(&self) -> Option<Duration> {
        self.negative_ttl
    }

    /// Whether DNS said that there is nothing, as opposed to not answering properly.
    #[must_use]
    pub fn is_denial(&self) -> bool {
        matches!(
            self.kind,
            ResolveErrorKind::NxDomain | ResolveErrorKind::NoData
        )
    }
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.description())
    }
}

impl Error for ResolveError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

/// The kinds of [`ResolveError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ResolveErrorKind {
    /// The name does not exist (RFC 2308 section 2.1). A denial.
    NxDomain,
    /// The name has no record of the family (RFC 2308 section 2.2). A denial.
    NoData,
    /// The server answered SERVFAIL.
    ServFail,
    /// The server answered REFUSED.
    Refused,
    /// The server answered with another error code.
    ErrorCode,
    /// No server answered in time.
    Timeout,
    /// The server could not be reached.
    Network,
    /// What the server sent could not be understood, or was no answer to the question.
    Malformed,
    /// The answer did not fit into UDP, and TCP did not bring it.
    Truncated,
    /// The answer's signature is wrong or missing where one is required (RFC 4033).
    Bogus,
    /// The CNAME chain is too long, loops, or ends in nothing.
    BrokenChain,
    /// The answer holds more addresses than the list takes from one answer.
    TooManyAddresses,
    /// The answer holds nothing but special-purpose addresses.
    OnlySpecialAddresses,
    /// The resolver panicked.
    Panicked,
    /// Anything else.
    Other,
}

impl ResolveErrorKind {
    /// A short name for logs, metrics and JSON, such as `nxdomain` or `servfail`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NxDomain => "nxdomain",
            Self::NoData => "no-data",
            Self::ServFail => "servfail",
            Self::Refused => "refused",
            Self::ErrorCode => "error-code",
            Self::Timeout => "timeout",
            Self::Network => "network",
            Self::Malformed => "malformed",
            Self::Truncated => "truncated",
            Self::Bogus => "bogus",
            Self::BrokenChain => "broken-chain",
            Self::TooManyAddresses => "too-many-addresses",
            Self::OnlySpecialAddresses => "only-special-addresses",
            Self::Panicked => "panicked",
            Self::Other => "other",
        }
    }

    fn description(self) -> &'static str {
        match self {
            Self::NxDomain => "the name does not exist (NXDOMAIN)",
            Self::NoData => "the name has no such record",
            Self::ServFail => "the DNS server failed (SERVFAIL)",
            Self::Refused => "the DNS server refused to answer (REFUSED)",
            Self::ErrorCode => "the DNS server answered with an error code",
            Self::Timeout => "no DNS server answered in time",
            Self::Network => "no DNS server could be reached",
            Self::Malformed => "the DNS server's answer makes no sense",
            Self::Truncated => "the answer is too large for UDP, and TCP did not bring it",
            Self::Bogus => "the answer's DNSSEC signature is wrong or missing",
            Self::BrokenChain => "the CNAME chain loops, is too long or ends in nothing",
            Self::TooManyAddresses => "the answer holds too many addresses",
            Self::OnlySpecialAddresses => "the answer holds special-purpose addresses only",
            Self::Panicked => "the resolver panicked",
            Self::Other => "the question failed",
        }
    }
}
