//! What is asked of DNS, and what comes back.
//!
//! A [`Question`] is one host name and one [`Family`]; a resolver gives an [`Answer`] or a
//! [`ResolveError`]. Anything that implements [`Resolve`] can supply an
//! [`AllowList`](crate::AllowList); [`HickoryResolver`](crate::HickoryResolver) is the one for
//! production, a closure the one for tests:
//!
//! ```
//! use std::time::Duration;
//! use callback_source::{AllowList, Answer, Question};
//!
//! # async fn example() {
//! let list = AllowList::builder()
//!     .host("callback-1.vipps.no".parse().unwrap())
//!     .spawn(async |_: Question| {
//!         Ok(Answer::new(["8.8.4.4".parse().unwrap()], Duration::from_secs(60)))
//!     });
//! # }
//! ```

use std::{error::Error, fmt, future::Future, net::IpAddr, sync::Arc, time::Duration};

#[cfg(feature = "hickory")]
pub(crate) mod chain;
#[cfg(feature = "hickory")]
pub(crate) mod hickory;
mod host_name;
#[cfg(feature = "hickory")]
mod server;
#[cfg(feature = "hickory")]
pub(crate) mod server_address;
#[cfg(feature = "hickory")]
mod system_conf;

pub use host_name::{HostName, HostNameError};

/// Answers one question about one host.
///
/// Each question is asked on its own: A and AAAA can succeed and fail apart. A call is bounded by
/// the list's own time limit, and a panic in it counts as a failure.
pub trait Resolve: Send + Sync + 'static {
    /// Asks for the addresses of one family of one host.
    ///
    /// # Errors
    ///
    /// Everything that is no address: that the host or the family does not exist
    /// ([`ResolveErrorKind::NxDomain`], [`ResolveErrorKind::NoData`]) as well as any failure.
    fn resolve(
        &self,
        question: Question,
    ) -> impl Future<Output = Result<Answer, ResolveError>> + Send;
}

impl<F, Fut> Resolve for F
where
    F: Fn(Question) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Answer, ResolveError>> + Send,
{
    fn resolve(
        &self,
        question: Question,
    ) -> impl Future<Output = Result<Answer, ResolveError>> + Send {
        self(question)
    }
}

/// One host name and one address family.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Question {
    /// The name that is asked for.
    pub host: HostName,
    /// The record type that is asked for.
    pub family: Family,
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.host, self.family)
    }
}

/// An address family, and so a record type: A or AAAA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4, A records.
    V4,
    /// IPv6, AAAA records.
    V6,
}

impl Family {
    /// Both families, IPv4 first.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address. `::ffff:a.b.c.d` is IPv4.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "A",
            Self::V6 => "AAAA",
        })
    }
}

/// The addresses of one host in one family, and for how long they hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    addresses: Vec<IpAddr>,
    ttl: Duration,
}

impl Answer {
    /// An answer with these addresses, in canonical form, sorted and each once.
    ///
    /// `ttl` is what the servers said, the least along the chain of CNAMEs; the list clamps it. An
    /// answer without an address counts as [`ResolveErrorKind::NoData`].
    #[must_use]
    pub fn new(addresses: impl IntoIterator<Item = IpAddr>, ttl: Duration) -> Self {
        let mut addresses: Vec<_> = addresses
            .into_iter()
            .map(|address| address.to_canonical())
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        Self { addresses, ttl }
    }

    /// The addresses, sorted, each once.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// For how long the addresses hold, as the servers said.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.ttl
    }
}

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
