//! Requests to try the service with.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

/// A callback as the provider sends it, from an address of this machine.
///
/// Displayed as a command for a POSIX shell.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// The address that it comes from; if not given, whatever the system chooses.
    pub(crate) source: Option<IpAddr>,
    /// The service.
    pub(crate) server: SocketAddr,
}

impl Sample {
    /// The path of the request.
    pub(crate) const PATH: &'static str = "/v2/payments/acme-shop-123-order123abc";

    /// The body of the request.
    pub(crate) const BODY: &'static str = r#"{"merchantSerialNumber":123456,"orderId":"acme-shop-123-order123abc","transactionInfo":{"amount":20000,"status":"RESERVED","timeStamp":"2018-12-12T11:18:38.246Z","transactionId":"5001420062"}}"#;
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("curl ")?;
        if let Some(source) = self.source {
            write!(f, "--interface {source} ")?;
        }
        write!(
            f,
            "-i http://{}{} -H 'Content-Type: application/json;charset=UTF-8' -d '{}'",
            self.server,
            Self::PATH,
            Self::BODY
        )
    }
}

/// Where a client with an IPv4 loopback address reaches a service that listens on `listen`; `None`
/// for an IPv6 address, which it does not reach.
pub(crate) fn reachable(listen: SocketAddr) -> Option<SocketAddr> {
    let port = listen.port();
    match listen.ip().to_canonical() {
        ip if ip.is_unspecified() => Some((Ipv4Addr::LOCALHOST, port).into()),
        IpAddr::V4(ip) => Some((ip, port).into()),
        IpAddr::V6(_) => None,
    }
}
