//! Builder options for unlisted peers.

use std::time::Duration;

use super::AllowListBuilder;
use crate::HostName;

impl AllowListBuilder {
    /// Watches hosts without admitting their addresses. An unlisted peer that has an address of a watched host is
    /// rejected as [`WrongEnvironment`](crate::RejectionKind::WrongEnvironment) in place of
    /// [`NotListed`](crate::RejectionKind::NotListed), and the log shows the host. A second call adds further hosts.
    ///
    /// A list with servers of one [environment](crate::vipps::Environment) watches the servers of the other
    /// environments without this call.
    ///
    /// Watched hosts are looked up only when an unlisted peer calls. Each question is asked at most once per
    /// [`on_demand_interval`](Self::on_demand_interval). No request waits for these lookups, so the first callback from
    /// a server of a watched host can still be rejected as `NotListed`. The log shows the server as soon as the answer
    /// arrives.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use callback_source::{AllowList, Answer, Question, RejectionKind, vipps::Environment};
    ///
    /// let list = AllowList::builder()
    ///     .environment(Environment::Production)
    ///     .spawn(|question: Question| async move {
    ///         let is_test = question.host.as_str().contains("-mt-");
    ///         let address = if is_test { "20.0.0.9" } else { "20.0.0.1" };
    ///         Ok(Answer::new([address.parse().unwrap()], Duration::from_secs(60)))
    ///     });
    /// list.ready().await;
    /// list.watched_attempted().await;
    /// let verdict = list.verdict("20.0.0.9".parse()?);
    /// let rejection = verdict.rejection().expect("it is a test server");
    /// assert_eq!(rejection.kind(), RejectionKind::WrongEnvironment);
    /// assert_eq!(
    ///     rejection.explanation().as_deref(),
    ///     Some("20.0.0.9 is callback-mt-1.vipps.no, a test server; this list is production")
    /// );
    /// # Ok(())
    /// # }
    /// ```
    pub fn watch(mut self, hosts: impl IntoIterator<Item = HostName>) -> Self {
        self.watch.extend(hosts);
        self
    }

    /// Sets the minimum time from any lookup of a question to its next on-demand refresh. Default 5 s.
    ///
    /// The interval is never shorter than the [refresh interval floor](Self::ttl_bounds) or the
    /// [wait](Self::on_demand_wait): a lower value is raised. The interval bounds the DNS traffic that unlisted peers
    /// can cause. With a longer interval, the first callback of a new server is more likely to be refused:
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::{sync::{Arc, atomic::{AtomicU32, Ordering}}, time::Duration};
    /// use callback_source::{AllowList, Answer, Family, Question};
    ///
    /// let lookups = Arc::new(AtomicU32::new(0));
    /// let counter = Arc::clone(&lookups);
    /// let resolver = move |_: Question| {
    ///     counter.fetch_add(1, Ordering::Relaxed);
    ///     async { Ok(Answer::new(["20.0.0.1".parse().unwrap()], Duration::from_secs(3600))) }
    /// };
    /// let list = AllowList::builder()
    ///     .host("callbacks.example.com".parse()?)
    ///     .only_family(Family::V4)
    ///     .on_demand_interval(Duration::from_secs(30))
    ///     .spawn(resolver);
    /// list.ready().await;
    ///
    /// // A scanner that calls every second for a minute.
    /// for _ in 0..60 {
    ///     assert!(!list.verdict_after_refresh("20.0.0.9".parse()?).await.is_allowed());
    ///     tokio::time::sleep(Duration::from_secs(1)).await;
    /// }
    /// assert!(lookups.load(Ordering::Relaxed) <= 1 + 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_demand_interval(mut self, interval: Duration) -> Self {
        self.on_demand.interval = interval;
        self
    }

    /// Sets how long the request of an unlisted peer may wait for an on-demand refresh. Default 1 s, no maximum. The
    /// API with the shortest timeout for callbacks, the eCom API, waits 3 s for a response.
    ///
    /// With a wait of zero, the request is judged at once. The request still triggers the refresh, so that a retry can
    /// be admitted. A wait of zero suits a provider that retries, and a service that must not keep requests waiting:
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::{sync::{Arc, Mutex}, time::Duration};
    /// use callback_source::{AllowList, Answer, Question};
    /// use tokio::time::sleep;
    ///
    /// let dns = Arc::new(Mutex::new("20.0.0.1".parse()?));
    /// let current = Arc::clone(&dns);
    /// let list = AllowList::builder()
    ///     .host("callbacks.example.com".parse()?)
    ///     .on_demand_wait(Duration::ZERO)
    ///     .spawn(move |_: Question| {
    ///         let answer = Answer::new([*current.lock().unwrap()], Duration::from_secs(3600));
    ///         async { Ok(answer) }
    ///     });
    /// list.ready().await;
    /// sleep(Duration::from_secs(10)).await;
    ///
    /// // The provider adds a server.
    /// let server = "20.0.0.2".parse()?;
    /// *dns.lock().unwrap() = server;
    /// assert!(!list.verdict_after_refresh(server).await.is_allowed());
    /// sleep(Duration::from_secs(1)).await;
    /// assert!(list.verdict_after_refresh(server).await.is_allowed());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// With the default wait, the first request from the new server is admitted: see
    /// [`verdict_after_refresh`](crate::AllowList::verdict_after_refresh).
    pub fn on_demand_wait(mut self, wait: Duration) -> Self {
        self.on_demand.wait = wait;
        self
    }

    /// Sets how many unlisted peers may wait at the same time. Further peers are judged at once. Default 1,024, which
    /// takes about 40 KiB of memory. With zero, no peer waits.
    ///
    /// All requests of one peer share one permit to wait, so that a peer with many requests does not prevent other
    /// peers from waiting. The IPv6 addresses of one /64 are treated as one peer.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use callback_source::{AllowList, Answer, Question};
    /// use futures_util::FutureExt;
    ///
    /// let list = AllowList::builder()
    ///     .host("callbacks.example.com".parse()?)
    ///     .max_waiting(1)
    ///     .spawn(async |_: Question| {
    ///         Ok(Answer::new(["20.0.0.1".parse().unwrap()], Duration::from_secs(3600)))
    ///     });
    /// list.ready().await;
    /// tokio::time::sleep(Duration::from_secs(10)).await;
    ///
    /// let [one, other] = ["20.0.0.8".parse()?, "20.0.0.9".parse()?];
    /// let mut first = Box::pin(list.verdict_after_refresh(one));
    /// assert!(first.as_mut().now_or_never().is_none(), "it waits");
    /// assert!(list.verdict_after_refresh(other).now_or_never().is_some(), "judged at once");
    /// assert!(list.verdict_after_refresh(one).now_or_never().is_none(), "it shares the permit");
    /// # Ok(())
    /// # }
    /// ```
    pub fn max_waiting(mut self, waiters: usize) -> Self {
        self.on_demand.waiters = waiters;
        self
    }
}
