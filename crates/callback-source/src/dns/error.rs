//! Errors of a lookup: denials and failures.

use std::{error::Error, fmt, sync::Arc, time::Duration};

/// Error of a lookup: a denial or a failure.
///
/// A custom resolver must distinguish denials from failures. After a believed denial, the addresses of the question are
/// removed at the end of the linger window. After a failure, these addresses stay in use for the stale window.
///
/// ```
/// use std::{io, time::Duration};
/// use callback_source::{ResolveError, ResolveErrorKind};
///
/// fn from_code(code: u8, soa_minimum: Duration) -> ResolveError {
///     match code {
///         2 => ResolveError::new(ResolveErrorKind::ServFail),
///         3 => ResolveError::new(ResolveErrorKind::NxDomain).with_negative_ttl(soa_minimum),
///         5 => ResolveError::new(ResolveErrorKind::Refused),
///         _ => ResolveError::new(ResolveErrorKind::ErrorCode),
///     }
/// }
///
/// let denial = from_code(3, Duration::from_secs(30));
/// assert!(denial.is_denial());
/// assert_eq!(denial.negative_ttl(), Some(Duration::from_secs(30)));
/// assert_eq!(denial.to_string(), "the name does not exist (NXDOMAIN)");
/// assert!(!from_code(2, Duration::ZERO).is_denial());
/// ```
#[derive(Clone, Debug)]
pub struct ResolveError {
    kind: ResolveErrorKind,
    negative_ttl: Option<Duration>,
    cause: Option<Arc<dyn Error + Send + Sync>>,
}

impl ResolveError {
    /// Creates an error of this kind.
    #[must_use]
    pub fn new(kind: ResolveErrorKind) -> Self {
        Self {
            kind,
            negative_ttl: None,
            cause: None,
        }
    }

    /// Sets how long a denial is cached. Default: 60 seconds. An allow list clamps this time to its
    /// [bounds](crate::AllowListBuilder::ttl_bounds).
    ///
    /// By RFC 2308 section 5, this time is the lower of the SOA record's TTL and the record's MINIMUM field. The time
    /// has an effect only on denials.
    #[must_use]
    pub fn with_negative_ttl(mut self, ttl: Duration) -> Self {
        self.negative_ttl = Some(ttl);
        self
    }

    /// Sets the cause, which is returned by [`source`](Error::source) and logged.
    ///
    /// ```
    /// use std::{error::Error, io};
    /// use callback_source::{ResolveError, ResolveErrorKind};
    ///
    /// let cause = io::Error::from(io::ErrorKind::ConnectionRefused);
    /// let error = ResolveError::new(ResolveErrorKind::Network).with_cause(cause);
    /// assert_eq!(error.to_string(), "no DNS server could be reached");
    /// assert_eq!(error.source().map(|cause| cause.to_string()), Some("connection refused".to_owned()));
    /// ```
    #[must_use]
    pub fn with_cause(mut self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.cause = Some(Arc::from(cause.into()));
        self
    }

    /// Returns the kind of the error.
    #[must_use]
    pub fn kind(&self) -> ResolveErrorKind {
        self.kind
    }

    /// Returns how long a denial is cached, or `None` if this time was not set.
    #[must_use]
    pub fn negative_ttl(&self) -> Option<Duration> {
        self.negative_ttl
    }

    /// Returns true for a denial: the name or the record does not exist.
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

/// Kinds of [`ResolveError`].
///
/// ```
/// use callback_source::{ResolveError, ResolveErrorKind};
///
/// /// Faults of the zone concern the provider, all others the network of the shop.
/// fn is_fault_of_the_zone(error: &ResolveError) -> bool {
///     use ResolveErrorKind::{Bogus, BrokenChain, NxDomain, TooManyAddresses};
///     matches!(error.kind(), NxDomain | Bogus | BrokenChain | TooManyAddresses)
/// }
///
/// assert!(is_fault_of_the_zone(&ResolveError::new(ResolveErrorKind::BrokenChain)));
/// assert!(!is_fault_of_the_zone(&ResolveError::new(ResolveErrorKind::Timeout)));
/// assert_eq!(ResolveErrorKind::Timeout.as_str(), "timeout");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ResolveErrorKind {
    /// The name does not exist (RFC 2308 section 2.1). This is a denial.
    NxDomain,
    /// The name has no record of the family (RFC 2308 section 2.2). This is a denial.
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
    /// The response could not be parsed, or belonged to another question.
    Malformed,
    /// The answer was too large for UDP, and TCP failed.
    Truncated,
    /// The answer failed DNSSEC validation (RFC 4033).
    Bogus,
    /// The CNAME chain is too long, loops, or ends at a name that does not exist. This kind also covers an answer with
    /// neither an alias nor an address of the name in question.
    BrokenChain,
    /// The answer contains more addresses than an allow list accepts in one answer.
    TooManyAddresses,
    /// The answer contains only special-purpose addresses.
    OnlySpecialAddresses,
    /// The resolver panicked.
    Panicked,
    /// Any other failure.
    Other,
}

impl ResolveErrorKind {
    /// Returns a short name for logs, metrics and JSON, such as `nxdomain` or `servfail`.
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
            Self::Malformed => "the DNS server sent a malformed answer",
            Self::Truncated => "the answer is too large for UDP, and TCP failed",
            Self::Bogus => "the answer failed DNSSEC validation",
            Self::BrokenChain => "the CNAME chain loops, is too long, or ends without an address",
            Self::TooManyAddresses => "the answer contains too many addresses",
            Self::OnlySpecialAddresses => "the answer contains only special-purpose addresses",
            Self::Panicked => "the resolver panicked",
            Self::Other => "the lookup failed",
        }
    }
}
