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
