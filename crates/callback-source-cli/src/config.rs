//! Configuration from the flags of a command.
//!
//! `args` parses one value at a time. This module checks the values together. A flag that excludes another given flag,
//! or that requires a missing one, is refused before anything listens. The most dangerous mistake is a forwarding
//! header without a trusted proxy: then every client could choose its own address.

use std::net::IpAddr;

use callback_source::{
    AllowList, AllowListBuilder, Family, HickoryResolver, HostName, Rejection,
    verify::{ForwardedPeer, PeerIp, SocketAddrPeer, TrustedProxies, UnixPeer},
    vipps,
};
use http::{Extensions, HeaderMap};

use crate::{
    args::{CheckArgs, CommonArgs, Environment, List, Listen, ServeArgs, TrustedProxy, all},
    error::Error,
};

/// Group of the provider's servers that a command looks up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// Servers that call the merchant.
    Callers,
    /// Server that the merchant calls.
    Api,
}

/// Builder of a list, and the resolver that the list will use.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) list: AllowListBuilder,
    pub(crate) resolver: HickoryResolver,
}

impl Config {
    /// Configuration of a command that looks up the hosts once. Such a command reads the state file but never writes
    /// it, so that it cannot change the state that a server restores.
    pub(crate) fn for_one_shot(args: &CommonArgs, subject: Subject) -> Result<Self, Error> {
        let mut config = Self::new(args, subject)?;
        if let Some(path) = &args.state_file {
            config.list = config.list.restore_from(path);
        }
        Ok(config)
    }

    /// Configuration of a command that keeps running.
    pub(crate) fn for_server(args: &CommonArgs) -> Result<Self, Error> {
        let mut config = Self::new(args, Subject::Callers)?;
        if let Some(path) = &args.state_file {
            config.list = config.list.state_file(path);
        }
        Ok(config)
    }

    fn new(args: &CommonArgs, subject: Subject) -> Result<Self, Error> {
        let list = list(args, subject)?;
        let resolver = if args.dns_server.is_empty() {
            HickoryResolver::from_system_conf()?
        } else {
            HickoryResolver::from_servers(all(&args.dns_server))?
        };
        Ok(Self { list, resolver })
    }
}

/// Builder of a list without a state file.
pub(crate) fn list(args: &CommonArgs, subject: Subject) -> Result<AllowListBuilder, Error> {
    let mut list = AllowList::builder().hosts(hosts(args, subject));
    if subject == Subject::Callers {
        list = list.nets(all(&args.allow))?;
    }
    list = list
        .ttl_bounds(args.min_ttl, args.max_ttl)?
        .linger(args.linger)
        .stale_for(args.stale_for);
    // clap's `conflicts_with` would refuse a flag even if the environment variable of the other flag is `false`.
    match (args.ipv4_only, args.ipv6_only) {
        (false, false) => {}
        (true, false) => list = list.only_family(Family::V4),
        (false, true) => list = list.only_family(Family::V6),
        (true, true) => return Err(Error::NoFamily),
    }
    if args.allow_special_addresses {
        list = list.insecure_allow_special_addresses();
    }
    Ok(list)
}

/// Source of the address that is checked.
#[derive(Clone, Debug)]
pub(crate) enum Client {
    /// The peer of the connection, or the client in the PROXY header of a trusted proxy.
    Peer,
    /// The client that a trusted proxy names in a header.
    Forwarded(ForwardedPeer<SocketAddrPeer>),
    /// The client that the proxy at a Unix socket names in a header.
    BehindUnixSocket(ForwardedPeer<UnixPeer>),
}

impl PeerIp for Client {
    fn peer_ip(&self, headers: &HeaderMap, extensions: &Extensions) -> Result<IpAddr, Rejection> {
        match self {
            Self::Peer => SocketAddrPeer.peer_ip(headers, extensions),
            Self::Forwarded(peer) => peer.peer_ip(headers, extensions),
            Self::BehindUnixSocket(peer) => peer.peer_ip(headers, extensions),
        }
    }
}

/// Settings for the proxies in front of a server.
#[derive(Clone, Debug)]
pub(crate) struct Proxies {
    pub(crate) trusted: TrustedProxies,
    pub(crate) client: Client,
    /// `true` if trusted proxies send the header of the PROXY protocol.
    pub(crate) protocol: bool,
}

impl Proxies {
    pub(crate) fn from_serve_args(args: &ServeArgs) -> Result<Self, Error> {
        let proxy = &args.proxy;
        let trusted = trusted(&proxy.trusted_proxy)?;
        let any = has_network(&proxy.trusted_proxy);
        let header = proxy.client_ip_header.clone();
        let client = match (&args.listen, header) {
            (Listen::Unix(_), _) if args.proxy_protocol => {
                return Err(Error::ProxyProtocolOverUnix);
            }
            (Listen::Unix(_), None) => return Err(Error::UnixPeer),
            (Listen::Unix(_), Some(header)) => {
                Client::BehindUnixSocket(ForwardedPeer::header(UnixPeer, trusted.clone(), header))
            }
            (Listen::Tcp(_), Some(_)) if args.proxy_protocol => return Err(Error::TwoSources),
            (Listen::Tcp(_), Some(_)) if !any => {
                return Err(Error::NoTrustedProxy("`--client-ip-header`"));
            }
            (Listen::Tcp(_), Some(header)) => Client::Forwarded(ForwardedPeer::header(
                SocketAddrPeer,
                trusted.clone(),
                header,
            )),
            (Listen::Tcp(_), None) if args.proxy_protocol && !any => {
                return Err(Error::NoTrustedProxy("`--proxy-protocol`"));
            }
            (Listen::Tcp(_), None) if !proxy.trusted_proxy.is_empty() && !args.proxy_protocol => {
                return Err(Error::NoClientHeader);
            }
            (Listen::Tcp(_), None) => Client::Peer,
        };
        Ok(Self {
            trusted,
            client,
            protocol: args.proxy_protocol,
        })
    }
}

/// Returns the reader of the forwarding headers; `None` if no proxy is configured.
pub(crate) fn forwarded(args: &CheckArgs) -> Result<Option<ForwardedPeer<SocketAddrPeer>>, Error> {
    let proxy = &args.proxy;
    match (&proxy.client_ip_header, has_network(&proxy.trusted_proxy)) {
        (None, _) if proxy.trusted_proxy.is_empty() => Ok(None),
        (None, _) => Err(Error::NoClientHeader),
        (Some(_), false) => Err(Error::NoTrustedProxy("`--client-ip-header`")),
        (Some(header), true) => {
            let trusted = trusted(&proxy.trusted_proxy)?;
            Ok(Some(ForwardedPeer::header(
                SocketAddrPeer,
                trusted,
                header.clone(),
            )))
        }
    }
}

fn trusted(proxies: &[List<TrustedProxy>]) -> Result<TrustedProxies, Error> {
    let proxies = all(proxies);
    let networks = proxies.iter().filter_map(|proxy| match proxy {
        TrustedProxy::Network(network) => Some(*network),
        TrustedProxy::UnixSocket => None,
    });
    let trusted = TrustedProxies::new(networks)?;
    Ok(match proxies.contains(&TrustedProxy::UnixSocket) {
        true => trusted.with_unix_sockets(),
        false => trusted,
    })
}

/// Returns whether any entry can match the peer of a TCP connection. `unix:` never matches such a peer.
pub(crate) fn has_network(proxies: &[List<TrustedProxy>]) -> bool {
    all(proxies)
        .iter()
        .any(|proxy| matches!(proxy, TrustedProxy::Network(_)))
}

/// Returns the hosts to look up.
pub(crate) fn hosts(args: &CommonArgs, subject: Subject) -> Vec<HostName> {
    let named = all(&args.environment)
        .into_iter()
        .map(|environment| match environment {
            Environment::Production => vipps::Environment::Production,
            Environment::Test => vipps::Environment::Test,
        });
    let mut environments: Vec<_> = named.collect();
    let nothing_else = args.host.is_empty() && args.allow.is_empty();
    if environments.is_empty() && (nothing_else || subject == Subject::Api) {
        environments.push(vipps::Environment::Production);
    }
    match subject {
        Subject::Api => environments
            .into_iter()
            .map(vipps::Environment::api_host)
            .collect(),
        Subject::Callers => environments
            .into_iter()
            .flat_map(vipps::Environment::hosts)
            .chain(all(&args.host))
            .collect(),
    }
}
