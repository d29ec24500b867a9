//! Sample requests for the service.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

/// A callback as the provider sends it, from an address of this machine.
///
/// Its `Display` is a command for a POSIX shell.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// The source address. If it is `None`, the system chooses the address.
    pub(crate) source: Option<IpAddr>,
    /// The address of the service.
    pub(crate) server: SocketAddr,
    /// True if the service requires the token. The command reads it from the environment.
    pub(crate) token: bool,
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
        )?;
        match self.token {
            true => f.write_str(" -H \"Authorization: $RECEIVER_TOKEN\""),
            false => Ok(()),
        }
    }
}

/// The address at which a client on IPv4 loopback reaches a service that listens on `listen`. `None` if `listen` is an
/// IPv6 address that an IPv4 client cannot reach.
pub(crate) fn reachable(listen: SocketAddr) -> Option<SocketAddr> {
    let port = listen.port();
    match listen.ip().to_canonical() {
        ip if ip.is_unspecified() => Some((Ipv4Addr::LOCALHOST, port).into()),
        IpAddr::V4(ip) => Some((ip, port).into()),
        IpAddr::V6(_) => None,
    }
}
