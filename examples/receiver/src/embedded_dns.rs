//! A DNS server in this process, for trials in which the callbacks come from loopback addresses.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use callback_source::vipps::Environment;
use callback_source_testkit::dns::DnsServer;

/// DNS server that resolves the real names of the callback servers to loopback addresses.
///
/// | hosts | addresses |
/// |---|---|
/// | `callback-1` … `callback-4` | 127.0.1.1 … 127.0.1.4 |
/// | `callback-dr-1` … `callback-dr-4` | 127.0.2.1 … 127.0.2.4 |
/// | `callback-mt-1`, `callback-mt-2` | 127.0.3.1, 127.0.3.2 |
///
/// The server stops when the value is dropped.
#[derive(Debug)]
pub(crate) struct EmbeddedDns(DnsServer);

impl EmbeddedDns {
    /// Starts the server on a free loopback port.
    ///
    /// # Errors
    ///
    /// If no port is free.
    pub(crate) async fn start() -> io::Result<Self> {
        let server = DnsServer::start().await?;
        server.keep_log(false);
        let zone = Environment::Production.primary_hosts().zip(addresses(1));
        let zone = zone
            .chain(
                Environment::Production
                    .disaster_recovery_hosts()
                    .zip(addresses(2)),
            )
            .chain(Environment::Test.hosts().zip(addresses(3)));
        for (host, address) in zone {
            server.set(host.as_str(), TTL, &[address]);
        }
        Ok(Self(server))
    }

    /// The address that the server listens on.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.0.addr()
    }

    /// The address of the first callback server of an environment.
    pub(crate) fn first_server(environment: Environment) -> IpAddr {
        match environment {
            Environment::Production => address(1, 1),
            Environment::Test => address(3, 1),
        }
    }
}

fn addresses(net: u8) -> impl Iterator<Item = IpAddr> {
    (1..=u8::MAX).map(move |number| address(net, number))
}

fn address(net: u8, number: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, net, number).into()
}

const TTL: u32 = 60;
