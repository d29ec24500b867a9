//! Details of a rejected peer that is a server of a watched host.

use std::net::IpAddr;

use crate::HostName;

/// The watched host that has a rejected peer's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WatchedServer {
    pub(crate) host: HostName,
    /// Environment of the host, if the provider publishes the host.
    pub(crate) environment: Option<&'static str>,
    /// The environment that all admitted hosts of the provider share, if there is one.
    pub(crate) admitted: Option<&'static str>,
}

impl WatchedServer {
    /// Returns a sentence for operators that names the server at the peer's address.
    pub(crate) fn explain(&self, peer: IpAddr) -> String {
        let host = &self.host;
        let server = match self.environment {
            Some(environment) => format!("{peer} is {host}, a {environment} server"),
            None => format!("{peer} is {host}, which this list watches"),
        };
        match self.admitted {
            Some(admitted) => format!("{server}; this list is {admitted}"),
            None => format!("{server}; this list does not admit it"),
        }
    }
}
