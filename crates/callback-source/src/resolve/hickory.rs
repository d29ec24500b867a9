//! [`Resolve`] by hickory: one name server at a time, fail-over and CNAME chains by our own rules.

use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use futures_util::{StreamExt, stream::FuturesUnordered};
use hickory_resolver::{
    NameServerPool, PoolContext, TlsConfig,
    config::{ConnectionConfig, NameServerConfig, ResolverOpts},
    net::{
        DnsError, NetError,
        runtime::TokioRuntimeProvider,
        xfer::{DnsHandle, FirstAnswer},
    },
    proto::{
        op::{DnsRequestOptions, Message, Query, ResponseCode},
        rr::{DNSClass, Name, RData, RecordType},
    },
    system_conf::read_system_conf,
};
use tokio::time::{sleep, timeout};
use tracing::info;

use super::{Answer, Family, Question, Resolve, ResolveError, ResolveErrorKind};
use crate::observe::TARGET;

/// Asks DNS servers over UDP, and over TCP where an answer was truncated.
///
/// - Names are absolute: no search list is tried, and the hosts file is not read.
/// - Nothing is cached here; the list does that.
/// - Servers are asked in the order given, each for at most 2 s. The next one is asked as well after
///   400 ms of silence, and at once after a failure (SERVFAIL, REFUSED, nonsense). What a server
///   denies (NXDOMAIN, no data) is an answer, and is final.
/// - The letters of a question are in random case, which an answer must repeat (0x20).
/// - CNAMEs are followed, at most eight; the TTL is the least along the chain, and one with the top bit
///   set counts as zero (RFC 2181 section 8). Records off the chain are ignored.
#[derive(Clone)]
pub struct HickoryResolver {
    servers: Arc<ArcSwap<Servers>>,
    from_system: bool,
}

impl HickoryResolver {
    /// Asks the servers that the system is configured to ask (`/etc/resolv.conf` on Unix).
    ///
    /// After a question that no server answered, the configuration is read again, so that a changed
    /// network does not need a restart.
    ///
    /// # Errors
    ///
    /// A configuration that cannot be read, or that names no server.
    pub fn from_system_conf() -> Result<Self, NoDnsServer> {
        let servers = Servers::new(system_servers()?)?;
        Ok(Self {
            servers: Arc::new(ArcSwap::from_pointee(servers)),
            from_system: true,
        })
    }

    /// Asks these servers, in this order.
    ///
    /// # Errors
    ///
    /// No server at all.
    pub fn from_servers(
        servers: impl IntoIterator<Item = SocketAddr>,
    ) -> Result<Self, NoDnsServer> {
        let servers = Servers::new(servers.into_iter().collect())?;
        Ok(Self {
            servers: Arc::new(ArcSwap::from_pointee(servers)),
            from_system: false,
        })
    }

    fn read_system_again(&self) {
        let Ok(addresses) = system_servers() else {
            return;
        };
        if addresses == self.servers.load().addresses {
            return;
        }
        if let Ok(servers) = Servers::new(addresses) {
            info!(target: TARGET, servers = ?servers.addresses, "the system's DNS servers changed");
            self.servers.store(Arc::new(servers));
        }
    }
}

impl Resolve for HickoryResolver {
    async fn resolve(&self, question: Question) -> Result<Answer, ResolveError> {
        let servers = self.servers.load_full();
        let outcome = servers.resolve(&question).await;
        if self.from_system && outcome.as_ref().is_err_and(|error| !error.is_denial()) {
            self.read_system_again();
        }
        outcome
    }
}

impl std::fmt::Debug for HickoryResolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HickoryResolver")
            .field("servers", &self.servers.load().addresses)
            .finish_non_exhaustive()
    }
}

/// There is no DNS server to ask: the system's configuration names none or cannot be read, or the
/// list of servers is empty.
#[derive(Clone, Debug, thiserror::Error)]
#[error("there is no DNS server to ask")]
pub struct NoDnsServer(#[source] NetError);

fn system_servers() -> Result<Vec<SocketAddr>, NoDnsServer> {
    let (config, _) = read_system_conf().map_err(NoDnsServer)?;
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for server in config.name_servers() {
        let port = server
            .connections
            .first()
            .map_or(DNS_PORT, |connection| connection.port);
        let address = SocketAddr::new(server.ip, port);
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

struct Servers {
    addresses: Vec<SocketAddr>,
    /// One pool per server: within a pool, a fast failure of one server would beat the answer of
    /// another, and a silent one would use up the time of all.
    pools: Vec<NameServerPool<TokioRuntimeProvider>>,
}

impl Servers {
    fn new(addresses: Vec<SocketAddr>) -> Result<Self, NoDnsServer> {
        if addresses.is_empty() {
            return Err(NoDnsServer(NetError::NoConnections));
        }
        let mut options = ResolverOpts::default();
        options.timeout = SERVER_TIME_LIMIT;
        options.case_randomization = true;
        let tls = TlsConfig::new().map_err(NoDnsServer)?;
        let context = Arc::new(PoolContext::new(options, tls));
        let pools = addresses.iter().map(|address| {
            let mut udp = ConnectionConfig::udp();
            let mut tcp = ConnectionConfig::tcp();
            udp.port = address.port();
            tcp.port = address.port();
            let server = NameServerConfig::new(address.ip(), true, vec![udp, tcp]);
            let provider = TokioRuntimeProvider::default();
            NameServerPool::from_config([server], Arc::clone(&context), provider)
        });
        Ok(Self {
            pools: pools.collect(),
            addresses,
        })
    }

    async fn resolve(&self, question: &Question) -> Result<Answer, ResolveError> {
        let mut chain = Chain::new(question)?;
        loop {
            let query = Query::query(chain.name.clone(), record_type(question.family));
            if let Some(answer) = chain.take(self.ask(query).await)? {
                return Ok(answer);
            }
        }
    }

    /// Asks one server after the other; the first answer or denial counts.
    async fn ask(&self, query: Query) -> Result<Message, NetError> {
        let mut asked = FuturesUnordered::new();
        let mut failure = NetError::NoConnections;
        for pool in &self.pools {
            asked.push(ask_one(pool, query.clone()));
            let silence = sleep(SILENCE);
            tokio::pin!(silence);
            tokio::select! {
                Some(outcome) = asked.next() => match outcome {
                    Err(error) if !is_final(&error) => failure = more_telling(failure, error),
                    outcome => return outcome,
                },
                () = &mut silence => {}
            }
        }
        while let Some(outcome) = asked.next().await {
            match outcome {
                Err(error) if !is_final(&error) => failure = more_telling(failure, error),
                outcome => return outcome,
            }
        }
        Err(failure)
    }
}

fn ask_one(
    pool: &NameServerPool<TokioRuntimeProvider>,
    query: Query,
) -> impl Future<Output = Result<Message, NetError>> + Send + 'static {
    let answer = pool
        .lookup(query, DnsRequestOptions::default())
        .first_answer();
    async move {
        let response = timeout(SERVER_TIME_LIMIT, answer)
            .await
            .map_err(|_| NetError::Timeout)??;
        Ok(response.into_message())
    }
}

/// Whether another server need not be asked: this one says that there is nothing.
fn is_final(error: &NetError) -> bool {
    let kind = kind_of(error);
    kind == ResolveErrorKind::NxDomain || kind == ResolveErrorKind::NoData
}

/// Of several servers' failures, one that a server sent says more than silence.
fn more_telling(before: NetError, after: NetError) -> NetError {
    match before {
        NetError::NoConnections | NetError::Timeout => after,
        before => before,
    }
}

/// The walk from the name that is asked for to its addresses.
struct Chain {
    name: Name,
    family: Family,
    ttl: u32,
    hops: usize,
}

impl Chain {
    fn new(question: &Question) -> Result<Self, ResolveError> {
        let mut name = Name::from_ascii(question.host.as_str())
            .map_err(|error| ResolveError::new(ResolveErrorKind::Malformed).with_cause(error))?;
        name.set_fqdn(true);
        Ok(Self {
            name,
            family: question.family,
            ttl: u32::MAX >> 1,
            hops: 0,
        })
    }

    /// Goes on with what came of asking for `self.name`. `None`: it has to be asked again, for the
    /// name that it is now.
    fn take(&mut self, asked: Result<Message, NetError>) -> Result<Option<Answer>, ResolveError> {
        match asked {
            Ok(message) => self.follow(&message),
            Err(error) => Err(self.fail(error)),
        }
    }

    /// Follows the chain through one message. `None`: the message ends in a CNAME whose target,
    /// now `self.name`, has to be asked for.
    fn follow(&mut self, message: &Message) -> Result<Option<Answer>, ResolveError> {
        let before = self.hops;
        if message.response_code == ResponseCode::NXDomain {
            // With an alias in the answer: its target does not exist. With addresses: nonsense.
            return Err(ResolveError::new(ResolveErrorKind::BrokenChain));
        }
        while let Some((target, ttl)) = cname_of(&self.name, message) {
            self.hops += 1;
            if self.hops > MOST_HOPS {
                return Err(ResolveError::new(ResolveErrorKind::BrokenChain));
            }
            self.ttl = self.ttl.min(sane(ttl));
            self.name = target;
        }
        let mut addresses = Vec::new();
        let mut ttl = self.ttl;
        for record in &message.answers {
            if record.name == self.name && record.dns_class == DNSClass::IN {
                let address = match (self.family, &record.data) {
                    (Family::V4, RData::A(address)) => IpAddr::V4(address.0),
                    (Family::V6, RData::AAAA(address)) => IpAddr::V6(address.0),
                    _ => continue,
                };
                addresses.push(address);
                ttl = ttl.min(sane(record.ttl));
            }
        }
        if !addresses.is_empty() {
            return Ok(Some(Answer::new(
                addresses,
                Duration::from_secs(ttl.into()),
            )));
        }
        if self.hops == before {
            // An answer to something else.
            return Err(ResolveError::new(ResolveErrorKind::BrokenChain));
        }
        match negative_ttl(message) {
            Some(negative) => {
                let ttl = Duration::from_secs(self.ttl.min(negative).into());
                Err(ResolveError::new(ResolveErrorKind::NoData).with_negative_ttl(ttl))
            }
            None => Ok(None),
        }
    }

    fn fail(&self, error: NetError) -> ResolveError {
        let kind = match kind_of(&error) {
            // The name is there, as an alias; what it stands for is not.
            ResolveErrorKind::NxDomain if self.hops > 0 => ResolveErrorKind::BrokenChain,
            kind => kind,
        };
        let negative = match &error {
            NetError::Dns(DnsError::NoRecordsFound(none)) => none.negative_ttl,
            _ => None,
        };
        let failed = ResolveError::new(kind);
        match negative {
            Some(ttl) => {
                failed.with_negative_ttl(Duration::from_secs(self.ttl.min(sane(ttl)).into()))
            }
            None => failed.with_cause(error),
        }
    }
}

/// Follows a chain through packets, each the answer to one question on it, as
/// [`Servers::resolve`] does. `None`: the packets end before the chain does.
#[cfg(fuzzing)]
pub(crate) fn followed(
    question: &Question,
    packets: impl IntoIterator<Item = Vec<u8>>,
) -> Option<Result<Answer, ResolveError>> {
    use hickory_resolver::proto::op::DnsResponse;

    let mut chain = Chain::new(question).ok()?;
    packets.into_iter().find_map(|packet| {
        let response = DnsResponse::from_buffer(packet).map_err(NetError::from);
        let response = response.and_then(|response| Ok(DnsError::from_response(response)?));
        chain
            .take(response.map(DnsResponse::into_message))
            .transpose()
    })
}

fn cname_of(name: &Name, message: &Message) -> Option<(Name, u32)> {
    message
        .answers
        .iter()
        .find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == *name && record.dns_class == DNSClass::IN => {
                Some((target.0.clone(), record.ttl))
            }
            _ => None,
        })
}

/// RFC 2308 section 5: the lesser of the SOA record's own TTL and its MINIMUM field.
fn negative_ttl(message: &Message) -> Option<u32> {
    message
        .authorities
        .iter()
        .find_map(|record| match &record.data {
            RData::SOA(soa) => Some(sane(record.ttl).min(sane(soa.minimum))),
            _ => None,
        })
}

/// RFC 2181 section 8.
fn sane(ttl: u32) -> u32 {
    if ttl.leading_zeros() == 0 { 0 } else { ttl }
}

fn kind_of(error: &NetError) -> ResolveErrorKind {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => ResolveErrorKind::NxDomain,
            // A referral: this server does not answer for the zone (RFC 2308 section 2.2).
            ResponseCode::NoError if none.soa.is_none() && none.ns.is_some() => {
                ResolveErrorKind::Malformed
            }
            ResponseCode::NoError => ResolveErrorKind::NoData,
            _ => ResolveErrorKind::ErrorCode,
        },
        NetError::Dns(DnsError::ResponseCode(code)) => match *code {
            ResponseCode::ServFail => ResolveErrorKind::ServFail,
            ResponseCode::Refused => ResolveErrorKind::Refused,
            _ => ResolveErrorKind::ErrorCode,
        },
        NetError::Dns(DnsError::DnssecBogus) => ResolveErrorKind::Bogus,
        NetError::Timeout => ResolveErrorKind::Timeout,
        NetError::Truncated => ResolveErrorKind::Truncated,
        NetError::NoConnections | NetError::Io(_) => ResolveErrorKind::Network,
        NetError::Proto(_) | NetError::QueryCaseMismatch | NetError::ForeignClassRecord { .. } => {
            ResolveErrorKind::Malformed
        }
        _ => ResolveErrorKind::Other,
    }
}

fn record_type(family: Family) -> RecordType {
    match family {
        Family::V4 => RecordType::A,
        Family::V6 => RecordType::AAAA,
    }
}

const DNS_PORT: u16 = 53;
const SERVER_TIME_LIMIT: Duration = Duration::from_secs(2);
const SILENCE: Duration = Duration::from_millis(400);
const MOST_HOPS: usize = 8;
