//! The callback servers of Vipps MobilePay.
//!
//! Source: <https://developer.vippsmobilepay.com/docs/developer-resources/servers/>. The provider
//! publishes host names only; their addresses change without notice. The same servers are used for
//! every API and every market.

use std::{fmt, str::FromStr};

use crate::HostName;

/// An environment of Vipps MobilePay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Environment {
    /// Real payments. Contains the disaster-recovery servers, which take over without notice.
    Production,
    /// The merchant test environment (MT).
    Test,
}

impl Environment {
    /// The servers that callbacks come from, the disaster-recovery ones included.
    pub fn hosts(self) -> impl Iterator<Item = HostName> {
        self.primary_hosts().chain(self.disaster_recovery_hosts())
    }

    /// The servers that callbacks come from in normal operation.
    pub fn primary_hosts(self) -> impl Iterator<Item = HostName> {
        names(match self {
            Self::Production => &[
                "callback-1.vipps.no",
                "callback-2.vipps.no",
                "callback-3.vipps.no",
                "callback-4.vipps.no",
            ],
            Self::Test => &["callback-mt-1.vipps.no", "callback-mt-2.vipps.no"],
        })
    }

    /// The servers that callbacks come from when the provider's own disaster recovery is in force.
    /// The test environment has none.
    pub fn disaster_recovery_hosts(self) -> impl Iterator<Item = HostName> {
        names(match self {
            Self::Production => &[
                "callback-dr-1.vipps.no",
                "callback-dr-2.vipps.no",
                "callback-dr-3.vipps.no",
                "callback-dr-4.vipps.no",
            ],
            Self::Test => &[],
        })
    }

    /// The server that merchants call. It has nothing to do with who calls the merchant.
    #[must_use]
    pub fn api_host(self) -> HostName {
        name(match self {
            Self::Production => "api.vipps.no",
            Self::Test => "apitest.vipps.no",
        })
    }

    /// Where the provider reports disturbances.
    #[must_use]
    pub fn status_page(self) -> &'static str {
        match self {
            Self::Production => "https://vipps.statuspage.io",
            Self::Test => "https://vipps-test.statuspage.io",
        }
    }

    /// The name in lower case: `production` or `test`.
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
    type Err = UnknownEnvironment;

    /// Reads `production` or `test`.
    ///
    /// # Errors
    ///
    /// Any other text.
    fn from_str(text: &str) -> Result<Self, UnknownEnvironment> {
        [Self::Production, Self::Test]
            .into_iter()
            .find(|environment| environment.as_str() == text)
            .ok_or_else(|| UnknownEnvironment(text.to_owned()))
    }
}

/// A text that names no [`Environment`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is no environment; there are `production` and `test`", .0.escape_default())]
pub struct UnknownEnvironment(String);

/// Whether a set has servers of production, but lacks some of those for disaster recovery: an
/// outage at the provider would then be one at the merchant.
pub(crate) fn lacks_disaster_recovery(hosts: &[HostName]) -> bool {
    let production = Environment::Production;
    production.primary_hosts().any(|host| hosts.contains(&host))
        && !production
            .disaster_recovery_hosts()
            .all(|host| hosts.contains(&host))
}

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
