//! The watched host that a rejected peer is a server of.

use std::net::IpAddr;

use crate::HostName;

/// The watched host whose answer contains a rejected peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WatchedServer {
    pub(crate) host: HostName,
    /// The provider's environment that the host belongs to.
    pub(crate) environment: Option<&'static str>,
    /// The provider's environment that the list admits.
    pub(crate) admitted: Option<&'static str>,
}

impl WatchedServer {
    /// A sentence for operators that says which server a peer is.
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
