//! The options that concern unlisted peers.

use std::time::Duration;

use super::AllowListBuilder;
use crate::HostName;

impl AllowListBuilder {
    /// Watches hosts without admitting them. An unlisted peer that they name is rejected as
    /// [`WrongEnvironment`](crate::RejectionKind::WrongEnvironment) in place of
    /// [`NotListed`](crate::RejectionKind::NotListed), and the log names the host. A second call adds hosts.
    ///
    /// A list with servers of one [environment](vipps::Environment) watches the other ones without this call.
    ///
    /// Watched hosts are asked only while unlisted peers call, each question at most once per
    /// [`on_demand_interval`](Self::on_demand_interval), and nothing waits for them: the first callback of such a
    /// server can still be rejected as `NotListed`. The log names the server as soon as the answer arrives.
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

    /// Sets the minimum time between two on-demand refreshes of one question. Default 5 s.
    ///
    /// The interval is at least the [refresh interval floor](Self::ttl_bounds) and the
    /// [wait](Self::on_demand_wait).
    pub fn on_demand_interval(mut self, interval: Duration) -> Self {
        self.on_demand.interval = interval;
        self
    }

    /// Sets how long the request of an unlisted peer waits for its on-demand refresh. Default 1 s.
    ///
    /// With zero the request is judged at once. It still triggers the refresh, so that a retry can be admitted.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::{sync::{Arc, Mutex}, time::Duration};
    /// use callback_source::{AllowList, Answer, Question};
    ///
    /// let dns = Arc::new(Mutex::new("20.0.0.1".parse()?));
    /// let answer = Arc::clone(&dns);
    /// let list = AllowList::builder()
    ///     .host("callbacks.example.com".parse()?)
    ///     .ttl_bounds(Duration::from_secs(1), Duration::from_secs(3600))?
    ///     .on_demand_interval(Duration::from_secs(1))
    ///     .spawn(move |_: Question| {
    ///         let answer = Answer::new([*answer.lock().unwrap()], Duration::from_secs(3600));
    ///         async { Ok(answer) }
    ///     });
    /// list.ready().await;
    ///
    /// // The provider adds a server, and its first callback comes before the TTL has ended.
    /// let server = "20.0.0.2".parse()?;
    /// *dns.lock().unwrap() = server;
    /// assert!(!list.verdict(server).is_allowed());
    /// # tokio::time::pause();
    /// # tokio::time::advance(Duration::from_secs(2)).await;
    /// assert!(list.verdict_after_refresh(server).await.is_allowed());
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_demand_wait(mut self, wait: Duration) -> Self {
        self.on_demand.wait = wait;
        self
    }

    /// Sets how many unlisted peers wait at a time. Further ones are judged at once. Default 1,024.
    ///
    /// All requests of one peer share a permit, so that many of them displace no other peer. The IPv6
    /// addresses of one /64 are one peer.
    pub fn max_waiting(mut self, waiters: usize) -> Self {
        self.on_demand.waiters = waiters;
        self
    }
}
