//! Address changes of a list.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use tokio::sync::watch;

use crate::{
    AllowSet, HostName,
    list::{AllowList, clock::now},
    set::SetChange,
};

/// Subscription to the address changes of a list, created by [`AllowList::changes`].
///
/// The changes between two calls of [`next`](Self::next) are combined into one difference, so that a slow reader needs
/// no queue.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use callback_source::{AllowList, Answer, Question};
///
/// let (list, refresher) = AllowList::builder()
///     .host("callbacks.example.com".parse()?)
///     .pair(|_: Question| async {
///         Ok(Answer::new(["20.0.0.1".parse().unwrap()], Duration::from_secs(60)))
///     });
/// let mut changes = list.changes();
/// tokio::spawn(refresher.run());
/// let first = &changes.next().await[0];
/// assert_eq!(first.host.as_str(), "callbacks.example.com");
/// assert_eq!(first.added, ["20.0.0.1".parse::<std::net::IpAddr>()?]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Changes {
    list: AllowList,
    published_changed: watch::Receiver<u64>,
    seen: BTreeMap<HostName, BTreeSet<IpAddr>>,
}

impl AllowList {
    /// Subscribes to the changes of the addresses from now on. Call this method before [`snapshot`](Self::snapshot). In
    /// the other order, a change between the two calls would be missing from both results.
    ///
    /// A change lists the addresses of one host. An address that a change removes may still be admitted because of
    /// another host. A firewall should therefore use a change only as a signal to read the addresses of the whole set:
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use callback_source::{AllowList, Answer, Question};
    /// use tokio::time::Instant;
    ///
    /// let list = AllowList::builder()
    ///     .hosts(["one.example.com".parse()?, "two.example.com".parse()?])
    ///     .spawn(async |question: Question| {
    ///         let only_one = ["20.0.0.1", "20.0.0.2"].map(|address| address.parse().unwrap());
    ///         let addresses = match question.host.as_str() {
    ///             "one.example.com" => only_one.to_vec(),
    ///             _ => only_one[..1].to_vec(),
    ///         };
    ///         Ok(Answer::new(addresses, Duration::from_secs(60)))
    ///     });
    /// let mut changes = list.changes();
    /// list.ready().await;
    /// let admitted = || list.snapshot().addresses(Instant::now().into_std());
    /// assert_eq!(admitted().len(), 2);
    ///
    /// list.replace_hosts(["two.example.com".parse()?]);
    /// changes.next().await;
    /// assert_eq!(admitted().into_iter().collect::<Vec<_>>(), ["20.0.0.1".parse::<std::net::IpAddr>()?]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn changes(&self) -> Changes {
        let published_changed = self.shared().published_changed.subscribe();
        Changes::new(self.clone(), published_changed)
    }
}

impl Changes {
    fn new(list: AllowList, published_changed: watch::Receiver<u64>) -> Self {
        Self {
            seen: list.by_host(),
            list,
            published_changed,
        }
    }

    /// Waits until the addresses differ from those at the end of the last call, and returns the differences by host.
    ///
    /// The first call compares the addresses with those at the creation of this value. The method waits forever if no
    /// address changes any more. Dropping the future loses no change, so the future can be a branch of `select!`:
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use callback_source::AllowList;
    /// use tokio::sync::oneshot;
    ///
    /// let list = AllowList::fixed(["192.0.2.1".parse().unwrap()]);
    /// let (stop, mut stopped) = oneshot::channel::<()>();
    /// let task = tokio::spawn(async move {
    ///     let mut changes = list.changes();
    ///     loop {
    ///         tokio::select! {
    ///             changed = changes.next() => println!("{changed:?}"),
    ///             _ = &mut stopped => break,
    ///         }
    ///     }
    /// });
    /// drop(stop);
    /// task.await.expect("the task ends with the service");
    /// # }
    /// ```
    pub async fn next(&mut self) -> Vec<SetChange> {
        loop {
            self.published_changed.mark_unchanged();
            let current = self.list.by_host();
            let changes = self.differences(&current);
            if !changes.is_empty() {
                self.seen = current;
                return changes;
            }
            // `self.list` keeps the sender alive, so this call cannot fail.
            let _ = self.published_changed.changed().await;
        }
    }

    /// Waits until a set has been published since the last call, or since the creation of this value, and returns the
    /// current set. The addresses of this set may be the same as before: a refresh that confirms the addresses moves
    /// the ends of their [windows](AllowSet::windows).
    ///
    /// The method may also return the same set as the last call. It waits forever if no set is published any more.
    /// Dropping the future loses no set.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use callback_source::{AllowList, Answer, Question};
    ///
    /// let (list, refresher) = AllowList::builder()
    ///     .host("callbacks.example.com".parse()?)
    ///     .pair(|_: Question| async {
    ///         Ok(Answer::new(["20.0.0.1".parse().unwrap()], Duration::from_secs(60)))
    ///     });
    /// let mut changes = list.changes();
    /// tokio::spawn(refresher.run());
    /// let now = tokio::time::Instant::now().into_std();
    /// while changes.next_set().await.windows(now).is_empty() {}
    /// # Ok(())
    /// # }
    /// ```
    pub async fn next_set(&mut self) -> Arc<AllowSet> {
        // `self.list` keeps the sender alive, so this call cannot fail.
        let _ = self.published_changed.changed().await;
        self.list.snapshot()
    }

    fn differences(&self, current: &BTreeMap<HostName, BTreeSet<IpAddr>>) -> Vec<SetChange> {
        let at = now();
        let none = BTreeSet::new();
        let hosts: BTreeSet<_> = self.seen.keys().chain(current.keys()).collect();
        let changes = hosts.into_iter().map(|host| {
            let before = self.seen.get(host).unwrap_or(&none);
            let after = current.get(host).unwrap_or(&none);
            SetChange {
                host: host.clone(),
                added: after.difference(before).copied().collect(),
                removed: before.difference(after).copied().collect(),
                at,
            }
        });
        changes
            .filter(|change| !change.added.is_empty() || !change.removed.is_empty())
            .collect()
    }
}
