//! Replay marks in Redis or Valkey.

use std::{future::Future, time::Duration};

use redis::{
    Client, IntoConnectionInfo, RedisError,
    aio::{ConnectionManager, ConnectionManagerConfig},
    io::tcp::TcpSettings,
};

use super::{ReplayMark, ReplayStore, ReplayStoreError};

/// [`ReplayStore`] on Redis or Valkey, of any version since Redis 2.6.12.
///
/// Each mark is set by `SET key owner NX PX time`. This command is atomic and takes one round trip, and the mark
/// expires by itself. A script withdraws a mark if the mark still has the same owner. All deliveries share one
/// connection. The first delivery opens the connection, so a service can start before its store does. A connection that
/// fails is replaced.
///
/// The server must not evict marks before they expire (`maxmemory-policy noeviction`, the default). A server that is
/// full is treated as not available. After a fail-over, marks that were not replicated yet are lost.
///
/// ```no_run
/// use callback_source::signature::{RedisReplayStore, ReplayGuard, Secret, VerifySignatureLayer};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = RedisReplayStore::new("redis://10.0.1.7:6379/")?;
/// VerifySignatureLayer::rejecting(Secret::new("of the registration")?)
///     .replay_guard(ReplayGuard::default().with_store(store));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RedisReplayStore {
    connection: ConnectionManager,
    prefix: String,
}

impl RedisReplayStore {
    /// Creates a store at this URL: `redis://[user[:password]@]host[:port][/database]`, or `unix:///path`.
    ///
    /// For `rediss://` (TLS), add version 1 of the crate `redis` to your own dependencies, with its feature
    /// `tokio-rustls-comp`.
    ///
    /// # Errors
    ///
    /// Returns an error for an invalid URL.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    pub fn new(url: &str) -> Result<Self, RedisUrlError> {
        // Without the user timeout, a connection whose packets are dropped would stay in use until TCP gives up,
        // after a quarter of an hour.
        let tcp = TcpSettings::default().set_nodelay(true);
        #[cfg(any(target_os = "android", target_os = "linux"))]
        let tcp = tcp.set_user_timeout(UNACKNOWLEDGED);
        let info = url.into_connection_info().map_err(RedisUrlError)?;
        let client = Client::open(info.set_tcp_settings(tcp)).map_err(RedisUrlError)?;
        // Without a connection, each delivery tries to open one. Retries would only prolong the wait of that delivery.
        let config = ConnectionManagerConfig::new().set_number_of_retries(0);
        let connection = ConnectionManager::new_lazy_with_config(client, config);
        Ok(Self::from_connection_manager(
            connection.map_err(RedisUrlError)?,
        ))
    }

    /// Creates a store on a connection with your own settings, for example for TLS with client certificates.
    #[must_use]
    pub fn from_connection_manager(connection: ConnectionManager) -> Self {
        Self {
            connection,
            prefix: PREFIX.to_owned(),
        }
    }

    /// Replaces the text before each key, by default `callback-source:replay:`. Two services that share a server, and
    /// get the same deliveries signed with the same secret, need different prefixes. Otherwise each delivery reaches
    /// only one of the services.
    ///
    /// ```no_run
    /// use callback_source::signature::RedisReplayStore;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let store = RedisReplayStore::new("redis://10.0.1.7/")?.prefix("shop:replay:");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    fn key(&self, mark: &ReplayMark) -> String {
        format!("{}{}", self.prefix, mark.key())
    }
}

impl ReplayStore for RedisReplayStore {
    fn mark(
        &self,
        mark: &ReplayMark,
        keep: Duration,
    ) -> impl Future<Output = Result<bool, ReplayStoreError>> + Send {
        let mut set = redis::cmd("SET");
        set.arg(self.key(mark)).arg(mark.owner());
        set.arg("NX").arg("PX").arg(keep.as_millis());
        let mut connection = self.connection.clone();
        async move {
            let stored: Result<Option<String>, _> = set.query_async(&mut connection).await;
            Ok(stored.map_err(ReplayStoreError::new)?.is_some())
        }
    }

    fn withdraw(
        &self,
        mark: &ReplayMark,
    ) -> impl Future<Output = Result<(), ReplayStoreError>> + Send {
        let mut remove = redis::cmd("EVAL");
        remove
            .arg(REMOVE_OWN)
            .arg(1)
            .arg(self.key(mark))
            .arg(mark.owner());
        let mut connection = self.connection.clone();
        async move {
            let removed: Result<u64, _> = remove.query_async(&mut connection).await;
            removed.map(drop).map_err(ReplayStoreError::new)
        }
    }
}

/// Error for an invalid URL of a [`RedisReplayStore`]. The error does not contain the URL, because the URL may contain
/// a password.
#[derive(Clone, thiserror::Error)]
#[error("invalid Redis URL; expected `redis://host:6379/`")]
pub struct RedisUrlError(#[source] RedisError);

crate::debug::debug_by_message!(RedisUrlError);

const PREFIX: &str = "callback-source:replay:";

/// Script that removes a mark if the mark still has the same owner. With two separate commands, the mark could expire
/// after the first command. Another replica could then set its own mark, which the second command would remove.
const REMOVE_OWN: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return 0 end";

#[cfg(any(target_os = "android", target_os = "linux"))]
const UNACKNOWLEDGED: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_is_the_prefix_and_the_key_of_the_mark() {
        let store = RedisReplayStore::new("redis://127.0.0.1/").unwrap();
        let (one, two) = (ReplayMark::new(&[1; 32]), ReplayMark::new(&[2; 32]));
        assert_eq!(store.key(&one), format!("{PREFIX}{}", one.key()));
        assert_ne!(store.key(&one), store.key(&two));
        assert_eq!(
            store.prefix("shop:").key(&one),
            format!("shop:{}", one.key())
        );
    }
}
