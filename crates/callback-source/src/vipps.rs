//! Callback servers of Vipps MobilePay.
//!
//! Source: <https://developer.vippsmobilepay.com/docs/developer-resources/servers/>. The provider publishes only host
//! names, and their addresses change without notice. The callbacks of all APIs and markets come from the same servers.
//!
//! ```
//! use callback_source::vipps::Environment;
//!
//! let environment: Environment = "test".parse()?;
//! assert_eq!(environment.hosts().count(), 2);
//! # Ok::<_, callback_source::vipps::EnvironmentError>(())
//! ```

use std::{fmt, str::FromStr};

use crate::HostName;

/// Environment of Vipps MobilePay. It can be parsed from its name, for example in a configuration.
///
/// ```
/// use callback_source::{HostName, vipps::Environment};
///
/// let environment: Environment = "production".parse()?;
/// assert_eq!(environment.hosts().count(), 8);
/// assert_eq!(environment.disaster_recovery_hosts().count(), 4);
///
/// // For the firewall: the shop calls this host, which never calls back.
/// let api: HostName = environment.api_host();
/// assert!(environment.hosts().all(|host| host != api));
///
/// let error = "prod".parse::<Environment>().unwrap_err();
/// assert_eq!(error.to_string(), "unknown environment `prod`; expected `production` or `test`");
/// # Ok::<_, callback_source::vipps::EnvironmentError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Environment {
    /// The environment of real payments. It includes the disaster-recovery servers, which take over without notice.
    Production,
    /// The merchant test environment (MT).
    Test,
}

impl Environment {
    /// Returns all callback servers, including those for disaster recovery.
    pub fn hosts(self) -> impl Iterator<Item = HostName> {
        self.primary_hosts().chain(self.disaster_recovery_hosts())
    }

    /// Returns the callback servers of normal operation. A list must not admit these servers only. During an outage at
    /// the provider, callbacks come from the servers for disaster recovery.
    pub fn primary_hosts(self) -> impl Iterator<Item = HostName> {
        names(self.primary_names())
    }

    /// Returns the callback servers for disaster recovery. The test environment has no such servers.
    pub fn disaster_recovery_hosts(self) -> impl Iterator<Item = HostName> {
        names(self.disaster_recovery_names())
    }

    fn primary_names(self) -> &'static [&'static str] {
        match self {
            Self::Production => &[
                "callback-1.vipps.no",
                "callback-2.vipps.no",
                "callback-3.vipps.no",
                "callback-4.vipps.no",
            ],
            Self::Test => &["callback-mt-1.vipps.no", "callback-mt-2.vipps.no"],
        }
    }

    fn disaster_recovery_names(self) -> &'static [&'static str] {
        match self {
            Self::Production => &[
                "callback-dr-1.vipps.no",
                "callback-dr-2.vipps.no",
                "callback-dr-3.vipps.no",
                "callback-dr-4.vipps.no",
            ],
            Self::Test => &[],
        }
    }

    /// Returns the environment of a callback server, or `None` if the host is not a callback server of the provider.
    pub(crate) fn of_host(host: &HostName) -> Option<Self> {
        ALL.into_iter().find(|environment| {
            environment.primary_names().contains(&host.as_str())
                || environment
                    .disaster_recovery_names()
                    .contains(&host.as_str())
        })
    }

    /// Returns the host name of the API server that merchants call. This server sends no callbacks.
    #[must_use]
    pub fn api_host(self) -> HostName {
        name(match self {
            Self::Production => "api.vipps.no",
            Self::Test => "apitest.vipps.no",
        })
    }

    /// Returns the URL of the provider's status page.
    #[must_use]
    pub fn status_page(self) -> &'static str {
        match self {
            Self::Production => "https://vipps.statuspage.io",
            Self::Test => "https://vipps-test.statuspage.io",
        }
    }

    /// Returns the name in lower case: `production` or `test`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Production => "production",
            Self::Test => "test",
        }
    }
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Environment {
    type Err = EnvironmentError;

    /// Parses `production` or `test`.
    ///
    /// # Errors
    ///
    /// Returns an error for any other text.
    fn from_str(text: &str) -> Result<Self, EnvironmentError> {
        ALL.into_iter()
            .find(|environment| environment.as_str() == text)
            .ok_or_else(|| EnvironmentError(text.to_owned()))
    }
}

/// Unknown environment name. See [`Environment`] for an example.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown environment `{}`; expected `production` or `test`", .0.escape_default())]
pub struct EnvironmentError(String);

crate::debug::debug_by_message!(EnvironmentError);

/// Returns `true` if a list has a primary server of production, but not all servers for disaster recovery. Such a list
/// refuses callbacks during an outage at the provider.
pub(crate) fn lacks_disaster_recovery(hosts: &[HostName]) -> bool {
    let production = Environment::Production;
    production.primary_hosts().any(|host| hosts.contains(&host))
        && !production
            .disaster_recovery_hosts()
            .all(|host| hosts.contains(&host))
}

/// Returns the environment that all these hosts share, or `None` if their environments differ or there are no hosts.
pub(crate) fn only_environment(
    mut hosts: impl Iterator<Item = Environment>,
) -> Option<Environment> {
    let first = hosts.next()?;
    hosts.all(|host| host == first).then_some(first)
}

/// Returns the callback servers of each environment from which a list admits no server. Returns nothing if the list
/// admits no server of the provider.
pub(crate) fn hosts_of_other_environments(hosts: &[HostName]) -> impl Iterator<Item = HostName> {
    let admitted: Vec<_> = hosts.iter().filter_map(Environment::of_host).collect();
    let others = ALL
        .into_iter()
        .filter(move |environment| !admitted.is_empty() && !admitted.contains(environment));
    others.flat_map(Environment::hosts)
}

const ALL: [Environment; 2] = [Environment::Production, Environment::Test];

fn names(texts: &'static [&'static str]) -> impl Iterator<Item = HostName> {
    texts.iter().map(|text| name(text))
}

fn name(text: &str) -> HostName {
    text.parse()
        .expect("the names of this file are well-formed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn production_contains_the_disaster_recovery_hosts() {
        let hosts: Vec<_> = Environment::Production.hosts().collect();
        assert_eq!(hosts.len(), 8);
        assert!(
            hosts
                .iter()
                .any(|host| host.as_str() == "callback-dr-4.vipps.no")
        );
        assert!(!lacks_disaster_recovery(&hosts));
        assert!(lacks_disaster_recovery(&hosts[..4]));
        assert!(lacks_disaster_recovery(&hosts[..7]));
        assert!(!lacks_disaster_recovery(&hosts[4..]));
    }

    #[test]
    fn test_has_two_hosts_and_shares_none_with_production() {
        let hosts: Vec<_> = Environment::Test.hosts().collect();
        assert_eq!(hosts.len(), 2);
        assert!(
            Environment::Production
                .hosts()
                .all(|host| !hosts.contains(&host))
        );
        assert!(!lacks_disaster_recovery(&hosts));
    }

    #[test]
    fn the_other_environment_is_that_of_a_list_with_servers_of_one_of_them() {
        let others = |hosts: &[HostName]| hosts_of_other_environments(hosts).collect::<Vec<_>>();
        let all = |environment: Environment| environment.hosts().collect::<Vec<_>>();
        let (production, test) = (all(Environment::Production), all(Environment::Test));
        assert_eq!(others(&production), test);
        assert_eq!(others(&test[1..]), production);
        assert_eq!(others(&production[7..]), test);
        assert_eq!(others(&[production, test].concat()), []);
        assert_eq!(others(&["callback.example.com".parse().unwrap()]), []);
        assert_eq!(others(&[]), []);
    }

    #[test]
    fn reads_its_own_names_and_refuses_others() {
        for environment in [Environment::Production, Environment::Test] {
            assert_eq!(environment.to_string().parse(), Ok(environment));
        }
        let error = "prod".parse::<Environment>().unwrap_err().to_string();
        assert!(
            error.contains("`prod`") && error.contains("`production`"),
            "{error}"
        );
    }
}
