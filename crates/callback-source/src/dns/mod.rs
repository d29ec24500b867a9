//! DNS questions and their outcomes.
//!
//! A [`Question`] is one host name and one [`Family`]. A resolver returns an [`Answer`] or a [`ResolveError`]. An
//! [`AllowList`](crate::AllowList) can use any type that implements [`Resolve`]. Use
//! [`HickoryResolver`](crate::HickoryResolver) in production and a closure in tests.
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

use std::{fmt, future::Future, net::IpAddr, time::Duration};

mod error;
#[cfg(feature = "hickory")]
pub(crate) mod hickory;
mod host_name;

pub use error::{ResolveError, ResolveErrorKind};
#[cfg(feature = "hickory")]
pub use hickory::{
    HickoryResolver, SystemConfError,
    server_address::{DnsServerError, parse_dns_server},
};
pub use host_name::{HostName, HostNameError};

/// Resolver of DNS questions.
///
/// A and AAAA are separate questions and can fail separately. An [`AllowList`](crate::AllowList) limits the time of
/// each call and treats a panic as a failed lookup.
///
/// Closures implement this trait:
///
/// ```
/// use std::time::Duration;
/// use callback_source::{Answer, Family, Question, Resolve, ResolveError, ResolveErrorKind};
///
/// fn resolver() -> impl Resolve {
///     async |question: Question| match question.family {
///         Family::V4 => Ok(Answer::new(["8.8.4.4".parse().unwrap()], Duration::from_secs(60))),
///         Family::V6 => Err(ResolveError::new(ResolveErrorKind::NoData)),
///     }
/// }
/// ```
///
/// A type of your own can wrap another resolver, for example to resolve one host to an internal address:
///
/// ```
/// use std::time::Duration;
/// use callback_source::{Answer, HostName, Question, Resolve, ResolveError};
///
/// struct Staging<R> {
///     host: HostName,
///     others: R,
/// }
///
/// impl<R: Resolve> Resolve for Staging<R> {
///     async fn resolve(&self, question: Question) -> Result<Answer, ResolveError> {
///         if question.host == self.host {
///             return Ok(Answer::new(["20.0.0.1".parse().unwrap()], Duration::from_secs(60)));
///         }
///         self.others.resolve(question).await
///     }
/// }
/// ```
pub trait Resolve: Send + Sync + 'static {
    /// Looks up the addresses of one host in one family.
    ///
    /// # Errors
    ///
    /// Returns an error for a denial ([`ResolveErrorKind::NxDomain`], [`ResolveErrorKind::NoData`]) or a failed
    /// lookup.
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

/// One host name and one record type.
///
/// See [`Resolve`] for an example.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Question {
    /// Host name to look up.
    pub host: HostName,
    /// Record type to look up.
    pub family: Family,
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.host, self.family)
    }
}

/// Address family, together with its record type (A or AAAA).
///
/// ```
/// use callback_source::Family;
///
/// assert_eq!(Family::from_ip("::ffff:192.0.2.1".parse()?), Family::V4);
/// assert_eq!(Family::V6.to_string(), "AAAA");
/// # Ok::<_, std::net::AddrParseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4, which is looked up as A records.
    V4,
    /// IPv6, which is looked up as AAAA records.
    V6,
}

impl Family {
    /// Both families, IPv4 first.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// Returns the family of an address. An IPv4-mapped address (`::ffff:a.b.c.d`) is IPv4.
    #[must_use]
    pub fn from_ip(address: IpAddr) -> Self {
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

/// Addresses of one host in one family, with their TTL.
///
/// A resolver that uses another protocol, such as DNS over HTTPS, builds its answers from the records that the servers
/// sent:
///
/// ```
/// use std::{net::IpAddr, time::Duration};
/// use callback_source::{Answer, ResolveError, ResolveErrorKind};
///
/// /// One response: the address and the TTL of each record.
/// fn read(records: &[(IpAddr, u64)]) -> Result<Answer, ResolveError> {
///     // The answer expires together with its first record.
///     let ttl = records.iter().map(|(_, ttl)| *ttl).min();
///     let ttl = ttl.ok_or_else(|| ResolveError::new(ResolveErrorKind::NoData))?;
///     let addresses = records.iter().map(|(address, _)| *address);
///     Ok(Answer::new(addresses, Duration::from_secs(ttl)))
/// }
///
/// let (one, two): (IpAddr, IpAddr) = ("20.0.0.1".parse()?, "20.0.0.2".parse()?);
/// let answer = read(&[(two, 300), (one, 60), (two, 300)])?;
/// assert_eq!(answer.addresses(), [one, two]);
/// assert_eq!(answer.ttl(), Duration::from_secs(60));
/// assert!(read(&[]).unwrap_err().is_denial());
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    addresses: Vec<IpAddr>,
    ttl: Duration,
}

impl Answer {
    /// Creates an answer. Addresses are made canonical, sorted and deduplicated.
    ///
    /// `ttl` is the lowest TTL that the servers sent along the CNAME chain. An allow list clamps this TTL to its
    /// bounds. An answer without addresses is treated as [`ResolveErrorKind::NoData`].
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

    /// Returns the addresses, sorted and deduplicated.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Returns the TTL that the servers sent.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.ttl
    }
}
