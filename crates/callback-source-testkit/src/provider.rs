//! A provider whose callback servers can move to new addresses, and whose DNS can fail.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use callback_source::{Family, HostName, ResolveErrorKind, vipps::Environment};

use crate::{Delivery, Outcome, ScriptedResolver};

/// An in-process payment provider: callback servers, their DNS, and the requests that they send.
///
/// Each host has one IPv4 address and no IPv6 address. The addresses are globally routable, since a list ignores
/// loopback and documentation addresses in answers. No packet is ever sent to these addresses. Clones share one state.
///
/// # Example
///
/// ```
/// use callback_source::{AllowList, vipps::Environment};
/// use callback_source_testkit::{Provider, UNLISTED_PEER};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let provider = Provider::new(Environment::Test);
/// let list = AllowList::builder()
///     .environment(Environment::Test)
///     .spawn(provider.resolver());
/// list.ready().await;
/// assert!(list.verdict(provider.address()).is_allowed());
/// assert!(!list.verdict(UNLISTED_PEER).is_allowed());
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Provider {
    hosts: Arc<[HostName]>,
    resolver: ScriptedResolver,
    generation: Arc<AtomicU8>,
}

impl Provider {
    /// The TTL of every answer.
    pub const TTL: Duration = Duration::from_secs(60);

    /// Creates a provider with the callback servers of an environment of Vipps MobilePay.
    #[must_use]
    pub fn new(environment: Environment) -> Self {
        Self::with_hosts(environment.hosts())
    }

    /// Creates a provider with these callback servers.
    ///
    /// # Panics
    ///
    /// If `hosts` is empty, or has more than 250 hosts.
    #[must_use]
    pub fn with_hosts(hosts: impl IntoIterator<Item = HostName>) -> Self {
        let hosts: Arc<[_]> = hosts.into_iter().collect();
        assert!(
            (1..=250).contains(&hosts.len()),
            "a provider has 1 to 250 callback servers, not {}",
            hosts.len()
        );
        let provider = Self {
            hosts,
            resolver: ScriptedResolver::default(),
            generation: Arc::default(),
        };
        provider.recover();
        provider
    }

    /// The resolver for the list under test.
    #[must_use]
    pub fn resolver(&self) -> ScriptedResolver {
        self.resolver.clone()
    }

    /// The callback servers' host names.
    #[must_use]
    pub fn hosts(&self) -> &[HostName] {
        &self.hosts
    }

    /// The address of the first callback server.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        address(self.generation.load(Ordering::SeqCst), 0)
    }

    /// The addresses of all callback servers, in the order of [`hosts`](Self::hosts).
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        let generation = self.generation.load(Ordering::SeqCst);
        let servers = 0..self.hosts.len();
        servers.map(|server| address(generation, server)).collect()
    }

    /// Moves every callback server to a new address and ends an outage.
    ///
    /// The list gets the new addresses at its next refresh. The request of an unlisted peer triggers an on-demand
    /// refresh, so that a new server is admitted before the TTL ends:
    ///
    /// ```
    /// use std::time::Duration;
    /// use callback_source::{AllowList, Freshness, vipps::Environment};
    /// use callback_source_testkit::Provider;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let provider = Provider::new(Environment::Test);
    /// let list = AllowList::builder()
    ///     .environment(Environment::Test)
    ///     .spawn(provider.resolver());
    /// list.ready().await;
    /// tokio::time::sleep(Duration::from_secs(10)).await;
    ///
    /// let old = provider.address();
    /// provider.rotate();
    /// assert!(!list.verdict(provider.address()).is_allowed());
    /// let verdict = list.verdict_after_refresh(provider.address()).await;
    /// assert_eq!(verdict.allowed().unwrap().freshness(), Freshness::Fresh);
    /// // The old address lingers.
    /// let verdict = list.verdict(old);
    /// assert_eq!(verdict.allowed().unwrap().freshness(), Freshness::Lingering);
    /// # }
    /// ```
    pub fn rotate(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.recover();
    }

    /// Makes every lookup fail until [`recover`](Self::recover) or [`rotate`](Self::rotate) is called.
    ///
    /// The last answer stays in use as a stale answer. Once the stale window has ended, a list without static networks
    /// is undecided:
    ///
    /// ```
    /// use std::time::Duration;
    /// use callback_source::{
    ///     AllowList, Freshness, RejectionKind, ResolveErrorKind, vipps::Environment,
    /// };
    /// use callback_source_testkit::{Provider, UNLISTED_PEER};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let provider = Provider::new(Environment::Test);
    /// let list = AllowList::builder()
    ///     .environment(Environment::Test)
    ///     .stale_for(Duration::from_secs(3600))
    ///     .spawn(provider.resolver());
    /// list.ready().await;
    ///
    /// provider.fail(ResolveErrorKind::Timeout);
    /// tokio::time::sleep(2 * Provider::TTL).await;
    /// let verdict = list.verdict(provider.address());
    /// assert_eq!(verdict.allowed().unwrap().freshness(), Freshness::Stale);
    ///
    /// tokio::time::sleep(Duration::from_secs(3600)).await;
    /// let verdict = list.verdict(provider.address());
    /// assert_eq!(verdict.rejection().unwrap().kind(), RejectionKind::Unresolved);
    ///
    /// provider.recover();
    /// tokio::time::sleep(Duration::from_secs(61)).await;
    /// assert!(list.verdict(provider.address()).is_allowed());
    /// # }
    /// ```
    pub fn fail(&self, kind: ResolveErrorKind) {
        for host in &*self.hosts {
            for family in Family::ALL {
                let failure = Outcome::Failure(kind);
                self.resolver.set_outcome(host.as_str(), family, failure);
            }
        }
    }

    /// Ends an outage that [`fail`](Self::fail) began. The documentation of that method has an example.
    pub fn recover(&self) {
        for (host, address) in self.hosts.iter().zip(self.addresses()) {
            let answer = Outcome::Answer(vec![address], Self::TTL);
            self.resolver.set_outcome(host.as_str(), Family::V4, answer);
            let none = Outcome::Failure(ResolveErrorKind::NoData);
            self.resolver.set_outcome(host.as_str(), Family::V6, none);
        }
    }

    /// Creates a delivery to this URL from the first callback server. See [`Delivery`].
    pub fn delivery(&self, url: &str) -> Delivery {
        Delivery::new(url).from_peer(self.address())
    }
}

/// An address that no provider uses, because it is reserved for documentation.
pub const UNLISTED_PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 66));

/// Returns an address outside of the documentation ranges, which a list ignores in answers as special-purpose.
fn address(generation: u8, server: usize) -> IpAddr {
    let server = u8::try_from(server).expect("there are at most 250");
    Ipv4Addr::new(20, 100, generation, server + 1).into()
}
