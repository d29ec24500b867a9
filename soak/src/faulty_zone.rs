//! A zone whose addresses rotate, on two DNS servers with faults.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use callback_source::HostName;
use callback_source_testkit::dns::{
    DnsServer, Fault, FaultScope, Name, RData, Record, RecordType, ResponseCode,
};
use fastrand::Rng;
use tokio::time::{Instant, sleep};

use crate::oracle::Oracle;

/// The zone and its servers. While [`run`](Self::run) is polled, it changes the zone and its servers.
pub(crate) struct FaultyZone {
    hosts: Vec<HostName>,
    servers: Vec<DnsServer>,
    faults: Vec<ActiveFault>,
    paused: Vec<Option<Instant>>,
    oracle: Arc<Oracle>,
    counts: Arc<Counts>,
    rng: Rng,
}

struct ActiveFault {
    server: usize,
    scope: FaultScope,
    until: Instant,
}

/// The numbers of changes and faults.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) rotations: AtomicU64,
    pub(crate) faults: AtomicU64,
    pub(crate) outages: AtomicU64,
    pub(crate) packets: AtomicU64,
}

impl FaultyZone {
    pub(crate) async fn new(
        hosts: Vec<HostName>,
        oracle: Arc<Oracle>,
        counts: Arc<Counts>,
        rng: Rng,
    ) -> std::io::Result<Self> {
        let servers = vec![DnsServer::start().await?, DnsServer::start().await?];
        let mut zone = Self {
            paused: vec![None; servers.len()],
            hosts,
            servers,
            faults: Vec::new(),
            oracle,
            counts,
            rng,
        };
        for server in &zone.servers {
            server.set_negative_ttl(Some(1));
            for host in &zone.hosts {
                server.append(host.as_str(), RecordType::A, stray(host));
            }
        }
        for host in 0..zone.hosts.len() {
            let addresses = zone.few(host);
            zone.publish(host, addresses, false);
        }
        zone.oracle.calm(true);
        Ok(zone)
    }

    pub(crate) fn servers(&self) -> impl Iterator<Item = std::net::SocketAddr> {
        self.servers.iter().map(DnsServer::addr)
    }

    /// Repeats four phases until an error occurs: calm, single faults, calm, and an outage.
    pub(crate) async fn run(mut self) -> std::io::Result<()> {
        self.calm(Duration::from_secs(10)).await;
        loop {
            self.single_faults(Duration::from_secs(16)).await?;
            self.recover().await?;
            self.calm(Duration::from_secs(13)).await;
            self.outage(Duration::from_secs(14)).await?;
            self.recover().await?;
            self.calm(Duration::from_secs(13)).await;
        }
    }

    /// Changes addresses in the first sixth of this time. In the rest of the time, the list can catch up with the zone.
    async fn calm(&mut self, length: Duration) {
        let end = Instant::now() + length;
        let rest = Instant::now() + length / 6;
        while Instant::now() < end {
            if Instant::now() < rest {
                self.rotate();
            }
            self.tick().await;
        }
    }

    async fn single_faults(&mut self, length: Duration) -> std::io::Result<()> {
        self.oracle.calm(false);
        let end = Instant::now() + length;
        while Instant::now() < end {
            if self.rng.u8(..) < 60 {
                self.rotate();
            }
            if self.rng.u8(..) < 60 {
                self.fail_somewhere();
            }
            self.end_faults().await?;
            self.tick().await;
        }
        Ok(())
    }

    /// Simulates an outage that exceeds the stale window. No server answers correctly during the outage.
    async fn outage(&mut self, length: Duration) -> std::io::Result<()> {
        self.oracle.calm(false);
        self.counts.outages.fetch_add(1, Ordering::Relaxed);
        let end = Instant::now() + length;
        for server in 0..self.servers.len() {
            if self.rng.u8(..) < 60 {
                self.servers[server].pause().await;
                self.paused[server] = Some(end);
                continue;
            }
            let silence = [
                Fault::Drop,
                Fault::Garbage,
                Fault::Rcode(ResponseCode::ServFail),
                Fault::Rcode(ResponseCode::Refused),
                Fault::Referral,
                Fault::WrongId,
            ];
            let fault = silence[self.rng.usize(..silence.len())];
            self.set_fault(server, FaultScope::Everything, fault, length);
        }
        while Instant::now() < end {
            if self.rng.u8(..) < 20 {
                self.rotate();
            }
            self.tick().await;
        }
        Ok(())
    }

    async fn recover(&mut self) -> std::io::Result<()> {
        self.faults.clear();
        for server in &self.servers {
            server.clear_faults();
        }
        for server in 0..self.servers.len() {
            self.resume(server).await?;
        }
        self.oracle.calm(true);
        Ok(())
    }

    async fn tick(&self) {
        for server in &self.servers {
            let packets = server.total() as u64;
            server.clear_log();
            self.counts.packets.fetch_add(packets, Ordering::Relaxed);
        }
        sleep(TICK).await;
    }

    /// Replaces the addresses of one host by other addresses, by no addresses, or by too many addresses.
    fn rotate(&mut self) {
        self.counts.rotations.fetch_add(1, Ordering::Relaxed);
        let host = self.rng.usize(..self.hosts.len());
        match self.rng.u8(..100) {
            0..70 => {
                let addresses = self.few(host);
                self.publish(host, addresses, false);
            }
            70..80 => {
                let addresses = self.few(host);
                self.publish(host, addresses, true);
            }
            80..88 => {
                let first = self.rng.u8(1..60);
                let addresses = (first..first + 100).map(|last| large(host, last));
                self.publish(host, addresses.collect(), false);
            }
            88..91 => {
                let addresses = (1..=250).map(|last| crowd(host, 0, last));
                let addresses = addresses.chain((1..=50).map(|last| crowd(host, 1, last)));
                self.publish(host, addresses.collect(), false);
            }
            91..96 => {
                self.oracle.publishing(host, BTreeSet::new());
                for server in &self.servers {
                    let host = &self.hosts[host];
                    server.remove(host.as_str());
                    server.append(host.as_str(), RecordType::A, stray(host));
                }
                self.oracle.published(host);
            }
            _ => self.publish(host, BTreeSet::new(), false),
        }
    }

    fn few(&mut self, host: usize) -> BTreeSet<IpAddr> {
        let count = self.rng.usize(1..=4);
        let mut addresses: BTreeSet<_> = (0..count)
            .map(|_| match self.rng.u8(..8) {
                0 => shared(self.rng.u8(1..=SHARED)),
                _ => own(host, self.rng.u8(1..=OWN)),
            })
            .collect();
        if self.rng.u8(..8) == 0 {
            addresses.insert(Ipv6Addr::LOCALHOST.into());
        }
        addresses
    }

    fn publish(&mut self, host: usize, addresses: BTreeSet<IpAddr>, aliased: bool) {
        let ttls: Vec<_> = addresses
            .iter()
            .map(|address| (TTLS[self.rng.usize(..TTLS.len())], *address))
            .collect();
        let name = self.hosts[host].as_str();
        let alias = format!("alias.{name}");
        let whole_chain = self.rng.bool();
        self.oracle.publishing(host, addresses);
        for server in &self.servers {
            if aliased {
                server.follow_cnames(whole_chain);
                server.set_records(&alias, &ttls);
                server.set_cname(name, 1, &alias);
            } else {
                server.set_records(name, &ttls);
            }
        }
        self.oracle.published(host);
    }

    fn fail_somewhere(&mut self) {
        let server = self.rng.usize(..self.servers.len());
        let length = Duration::from_millis(self.rng.u64(300..6_000));
        let host = self.hosts[self.rng.usize(..self.hosts.len())].as_str();
        let scope = match self.rng.u8(..8) {
            0 => FaultScope::Everything,
            1 => (host, RecordType::AAAA).into(),
            2..5 => (host, RecordType::A).into(),
            _ => host.into(),
        };
        if self.rng.u8(..) < 8 {
            self.paused[server] = Some(Instant::now() + length);
            return;
        }
        let fault = match self.rng.usize(..FAULTS.len() + 1) {
            at if at == FAULTS.len() => {
                Fault::Delay(Duration::from_millis(self.rng.u64(20..2_500)))
            }
            at => FAULTS[at],
        };
        // The other server compensates for the fault of a single server, so most faults must affect both servers.
        if self.rng.u8(..4) > 0 {
            for server in 0..self.servers.len() {
                self.set_fault(server, scope.clone(), fault, length);
            }
        } else {
            self.set_fault(server, scope, fault, length);
        }
    }

    fn set_fault(&mut self, server: usize, scope: FaultScope, fault: Fault, length: Duration) {
        self.counts.faults.fetch_add(1, Ordering::Relaxed);
        self.faults
            .retain(|active| active.server != server || active.scope != scope);
        self.faults.push(ActiveFault {
            server,
            scope: scope.clone(),
            until: Instant::now() + length,
        });
        self.servers[server].set_fault(scope, fault);
    }

    async fn end_faults(&mut self) -> std::io::Result<()> {
        let now = Instant::now();
        for active in self.faults.extract_if(.., |active| active.until <= now) {
            self.servers[active.server].clear_fault(active.scope);
        }
        for server in 0..self.servers.len() {
            match self.paused[server] {
                Some(until) if until <= now => self.resume(server).await?,
                Some(_) => self.servers[server].pause().await,
                None => {}
            }
        }
        Ok(())
    }

    async fn resume(&mut self, server: usize) -> std::io::Result<()> {
        if self.paused[server].take().is_none() {
            return Ok(());
        }
        // An outgoing connection may use the port for a short time.
        let mut tries = 50;
        while let Err(error) = self.servers[server].resume().await {
            tries -= 1;
            if tries == 0 {
                return Err(error);
            }
            sleep(TICK).await;
        }
        Ok(())
    }
}

/// Returns a record of another name for the answers to the A question of a host. The list must ignore it.
fn stray(host: &HostName) -> Record {
    let name = Name::from_ascii(format!("stray.{host}.")).expect("the hosts are short");
    Record::from_rdata(name, 3600, RData::A(Ipv4Addr::new(127, 200, 0, 1).into()))
}

/// Returns an address that is in the zone only at some times.
pub(crate) fn sometimes_listed(rng: &mut Rng, hosts: usize) -> IpAddr {
    let host = rng.usize(..hosts);
    match rng.u8(..20) {
        0 => Ipv6Addr::LOCALHOST.into(),
        1..3 => shared(rng.u8(1..=SHARED)),
        3..5 => large(host, rng.u8(1..160)),
        5 => crowd(host, rng.u8(0..2), rng.u8(1..=50)),
        _ => own(host, rng.u8(1..=OWN)),
    }
}

/// Returns an address that is never in the zone.
pub(crate) fn unlisted(third: u8, last: u8) -> IpAddr {
    Ipv4Addr::new(127, 200, third, last).into()
}

fn own(host: usize, last: u8) -> IpAddr {
    Ipv4Addr::new(127, 10, host as u8, last).into()
}

fn shared(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 11, 0, last).into()
}

fn large(host: usize, last: u8) -> IpAddr {
    Ipv4Addr::new(127, 12, host as u8, last).into()
}

fn crowd(host: usize, more: u8, last: u8) -> IpAddr {
    Ipv4Addr::new(127, 13 + more, host as u8, last).into()
}

const OWN: u8 = 12;
const SHARED: u8 = 6;

const TICK: Duration = Duration::from_millis(100);

/// TTLs of answers: zero, TTLs within the bounds, a TTL above the bounds, and a TTL with its top bit set, which means
/// zero.
const TTLS: [u32; 6] = [0, 1, 1, 2, 60, u32::MAX];

const FAULTS: [Fault; 18] = [
    Fault::Rcode(ResponseCode::ServFail),
    Fault::Rcode(ResponseCode::Refused),
    Fault::Rcode(ResponseCode::FormErr),
    Fault::Rcode(ResponseCode::NotImp),
    Fault::Rcode(ResponseCode::NXDomain),
    Fault::Drop,
    Fault::Garbage,
    Fault::WrongId,
    Fault::WrongQuestion,
    Fault::LowerCaseEcho,
    Fault::WrongClass,
    Fault::TruncateUdp,
    Fault::TruncateNoTcp,
    Fault::NoData,
    Fault::NoDataWithoutSoa,
    Fault::CnameLoop,
    Fault::CnameToNowhere,
    Fault::Referral,
];
