//! Events of a set that its operator should know about.

use std::{net::IpAddr, time::Instant};

use crate::{HostName, Question, ResolveError};

/// An event of a set that its operator should know about.
///
/// ```
/// use std::time::{Duration, Instant};
/// use callback_source::{AllowSet, Answer, set::{Notice, Rules}};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let now = Instant::now();
/// let mut set = AllowSet::new(Rules::default(), ["callback.example.com".parse()?], &[], now)?;
/// let (question, _) = set.questions().next().expect("the set has a host");
/// let answer = Answer::new(["20.0.0.1".parse()?], Duration::from_secs(60));
/// let notices = set.apply(&question, Ok(answer), now);
/// assert!(matches!(&notices[..], [Notice::Changed(change)] if change.added.len() == 1));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Notice {
    /// Addresses were added or removed.
    Changed(SetChange),
    /// Addresses of a watched host were added or removed. These addresses are not admitted.
    WatchedChanged(SetChange),
    /// A lookup failed.
    Failed {
        /// Question that failed.
        question: Question,
        /// Error of the lookup. If the error is a denial, the denial is not believed.
        error: ResolveError,
        /// Number of failures in a row, including this failure.
        times: u32,
    },
    /// A question that had failed was answered, or a denial of it is believed now.
    Recovered {
        /// Question that works again.
        question: Question,
        /// Time of the first failure.
        failing_since: Instant,
    },
    /// Special-purpose addresses were dropped from an answer.
    Dropped {
        /// Question that was answered.
        question: Question,
        /// Addresses that were dropped.
        addresses: Vec<IpAddr>,
    },
    /// More addresses of a host lingered than the limit allows. The addresses that had lingered longest were removed
    /// before their windows ended.
    LingerLimitReached {
        /// Host of the addresses.
        host: HostName,
        /// Number of addresses that were removed.
        dropped: usize,
    },
}

/// Addresses of one host that were added to the set or removed from it.
///
/// An address that left the answer but lingers has not been removed. An address that was removed may still be admitted
/// because of another host.
///
/// ```
/// use std::time::{Duration, Instant};
/// use callback_source::{AllowSet, Answer, set::{Notice, Rules}};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let now = Instant::now();
/// let mut set = AllowSet::new(Rules::default(), ["callback.example.com".parse()?], &[], now)?;
/// let (question, _) = set.questions().next().expect("the set has a host");
/// let answer = |address: &str| Answer::new([address.parse().unwrap()], Duration::from_secs(60));
/// set.apply(&question, Ok(answer("20.0.0.1")), now);
///
/// let notices = set.apply(&question, Ok(answer("20.0.0.2")), now);
/// let [Notice::Changed(change)] = &notices[..] else { panic!("one host changed") };
/// assert_eq!(change.added, ["20.0.0.2".parse::<std::net::IpAddr>()?]);
/// assert!(change.removed.is_empty(), "20.0.0.1 lingers");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SetChange {
    /// Host of the addresses.
    pub host: HostName,
    /// Addresses that are admitted now and were not admitted before, sorted.
    pub added: Vec<IpAddr>,
    /// Addresses that were admitted before and are no longer admitted, sorted.
    pub removed: Vec<IpAddr>,
    /// Time of the change.
    pub at: Instant,
}
