//! An in-process DNS server, over UDP and TCP on one port.
//!
//! The server has the records of a single zone, and denies all other names. Its behaviour:
//!
//! 1. The answer for a name contains its addresses of the type in question, each with its own TTL.
//! 2. The answer for a name with a CNAME contains the whole chain, like the answer of a recursive resolver. After
//!    [`DnsServer::follow_cnames`]`(false)`, it contains only the first step.
//! 3. The response for a known name without records of the type in question is NODATA, and the response for an unknown
//!    name is NXDOMAIN. Both responses have an SOA record, which [`DnsServer::set_negative_ttl`] can omit.
//! 4. An answer over UDP that exceeds the client's UDP size, or 4,096 bytes, is cut and marked as truncated. The limit
//!    over TCP is 65,535 bytes.
//! 5. A [`Fault`] changes the answers in its [`FaultScope`]. The narrowest scope takes precedence.
//! 6. Either UDP or TCP can be [switched off](DnsServer::set_transport).
//!
//! Zone, faults and log can be changed while the server runs, and are kept during [`DnsServer::pause`]. Names are text,
//! in any letter case, with or without the final dot. A call with an invalid name panics. A packet from a client never
//! causes a panic.
//!
//! Each response repeats the question in the client's spelling, unless a fault changes the question. The log of
//! questions grows until [`DnsServer::clear_log`] is called, unless the log is off ([`DnsServer::keep_log`]).
//!
//! ```
//! use callback_source_testkit::dns::{DnsServer, Fault, RecordType};
//! use std::net::{IpAddr, Ipv4Addr};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! let server = DnsServer::start().await?;
//! server.set("callback-1.example", 60, &[IpAddr::V4(Ipv4Addr::LOCALHOST)]);
//! server.set_fault(("callback-1.example", RecordType::AAAA), Fault::Drop);
//! println!("listening on {}", server.addr());
//! assert_eq!(server.count("callback-1.example", RecordType::A), 0);
//! # Ok(())
//! # }
//! ```

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use callback_source::HickoryResolver;
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query},
    rr::rdata::CNAME,
};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep},
};

use self::{socket::Sockets, zone::Zone};

mod fault;
mod socket;
mod wire;
mod zone;

pub use self::fault::{Fault, FaultScope};
pub use hickory_proto::{
    op::ResponseCode,
    rr::{Name, RData, Record, RecordType},
};

/// A running DNS server. See the [module docs](self).
///
/// Dropping the value stops the server. [`stop`](Self::stop) also waits until the port is free.
#[derive(Debug)]
pub struct DnsServer {
    addr: SocketAddr,
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

impl DnsServer {
    /// Starts a server on a free port of 127.0.0.1.
    ///
    /// # Errors
    ///
    /// If no port is found that is free for both UDP and TCP.
    pub async fn start() -> io::Result<Self> {
        Self::bind((Ipv4Addr::LOCALHOST, 0).into()).await
    }

    /// Starts a server on `addr`. Port 0 selects any free port.
    ///
    /// # Errors
    ///
    /// If the address cannot be bound for both UDP and TCP.
    pub async fn bind(addr: SocketAddr) -> io::Result<Self> {
        let sockets = Sockets::bind(addr).await?;
        let mut server = Self {
            addr: sockets.addr()?,
            shared: Arc::default(),
            tasks: JoinSet::new(),
        };
        server.serve(sockets);
        Ok(server)
    }

    /// Stops the server and waits until its port is free.
    pub async fn stop(mut self) {
        self.pause().await;
    }

    /// Closes all sockets and drops pending answers. Zone, faults and log are kept.
    pub async fn pause(&mut self) {
        self.tasks.shutdown().await;
    }

    /// Listens again on the same port after [`pause`](Self::pause). Does nothing if the server is not paused.
    ///
    /// # Errors
    ///
    /// If another socket has been bound to the port since the pause.
    pub async fn resume(&mut self) -> io::Result<()> {
        if self.tasks.is_empty() {
            let sockets = Sockets::bind(self.addr).await?;
            self.serve(sockets);
        }
        Ok(())
    }

    fn serve(&mut self, sockets: Sockets) {
        self.tasks.spawn(sockets.serve(Arc::clone(&self.shared)));
    }

    /// The address of both the UDP and the TCP socket.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// A resolver that asks only this server.
    ///
    /// # Panics
    ///
    /// Never: the resolver always gets one server.
    #[must_use]
    pub fn resolver(&self) -> HickoryResolver {
        HickoryResolver::from_servers([self.addr]).expect("one server is given")
    }

    /// Sets the addresses of `name`, replacing earlier addresses or a CNAME. With an empty slice, `name` becomes a
    /// known name without addresses.
    pub fn set(&self, name: &str, ttl: u32, addresses: &[IpAddr]) {
        let records = addresses.iter().map(|&address| (ttl, address.into()));
        self.replace(name, records.collect());
    }

    /// Sets addresses as [`set`](Self::set) does, each with its own TTL.
    pub fn set_records(&self, name: &str, records: &[(u32, IpAddr)]) {
        let records = records.iter().map(|&(ttl, address)| (ttl, address.into()));
        self.replace(name, records.collect());
    }

    /// Makes `name` an alias of `target`, replacing earlier addresses or a CNAME.
    pub fn set_cname(&self, name: &str, ttl: u32, target: &str) {
        let target = RData::CNAME(CNAME(absolute(target)));
        self.replace(name, vec![(ttl, target)]);
    }

    /// Appends `record`, whose owner may be any name, to the answers for `name` and type `asked`.
    ///
    /// The record stays when the addresses of `name` change. [`remove`](Self::remove) removes it.
    pub fn append(&self, name: &str, asked: RecordType, record: Record) {
        let name = absolute(name);
        self.shared.lock().zone.append(name, asked, record);
    }

    /// Removes `name` and the records that are appended to its answers.
    pub fn remove(&self, name: &str) {
        self.shared.lock().zone.remove(&absolute(name));
    }

    /// Sets the TTL and the minimum of the SOA in NXDOMAIN and NODATA. `None` omits the SOA.
    pub fn set_negative_ttl(&self, ttl: Option<u32>) {
        self.shared.lock().zone.negative_ttl = ttl;
    }

    /// Sets the transports on which the server answers. Initially, it answers on both transports.
    pub fn set_transport(&self, transport: Transport) {
        self.shared.lock().transport = transport;
    }

    /// Sets whether an answer has the whole CNAME chain, which is the default, or only its first step.
    pub fn follow_cnames(&self, follow: bool) {
        self.shared.lock().zone.follow_cnames = follow;
    }

    /// Sets the fault of all later answers in `scope`.
    ///
    /// A scope is [`FaultScope::Everything`], a name, or a name and a type.
    pub fn set_fault(&self, scope: impl Into<FaultScope>, fault: Fault) {
        self.shared.lock().faults.insert(scope.into(), fault);
    }

    /// Ends the fault that was set for exactly this scope.
    pub fn clear_fault(&self, scope: impl Into<FaultScope>) {
        self.shared.lock().faults.remove(&scope.into());
    }

    /// Ends all faults.
    pub fn clear_faults(&self) {
        self.shared.lock().faults.clear();
    }

    /// The questions since the log was last cleared, oldest first.
    ///
    /// A question is logged when it arrives, before the answer. A question that is repeated over TCP after a
    /// truncated answer is logged twice.
    #[must_use]
    pub fn questions(&self) -> Vec<Asked> {
        self.shared.lock().log.clone()
    }

    /// The number of questions for this name and type in the log.
    #[must_use]
    pub fn count(&self, name: &str, record_type: RecordType) -> usize {
        let name = plain(&absolute(name)).to_ascii_lowercase();
        let state = self.shared.lock();
        let asked = |asked: &&Asked| asked.name == name && asked.record_type == record_type;
        state.log.iter().filter(asked).count()
    }

    /// The number of questions in the log.
    #[must_use]
    pub fn total(&self) -> usize {
        self.shared.lock().log.len()
    }

    /// Empties the log.
    pub fn clear_log(&self) {
        self.shared.lock().log.clear();
    }

    /// Switches the log of questions on or off. Switch it off in a process that runs for a long time.
    pub fn keep_log(&self, keep: bool) {
        self.shared.lock().log_off = !keep;
    }

    /// Waits until [`count`](Self::count) is at least `n`.
    pub async fn asked_at_least(&self, name: &str, record_type: RecordType, n: usize) {
        loop {
            // Created before the log is read. Otherwise, a question that arrives between the two steps would be missed.
            let asked = self.shared.asked.notified();
            if self.count(name, record_type) >= n {
                return;
            }
            asked.await;
        }
    }

    fn replace(&self, name: &str, records: Vec<(u32, RData)>) {
        let name = absolute(name);
        self.shared.lock().zone.replace(name, records);
    }
}

/// The transports on which a [`DnsServer`] answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// UDP and TCP.
    #[default]
    Both,
    /// UDP. A question over TCP ends the connection.
    UdpOnly,
    /// UDP. A question over TCP gets no answer, as behind some firewalls.
    UdpOnlyTcpSilent,
    /// TCP. A question over UDP gets no answer.
    TcpOnly,
}

/// A question that the server received.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Asked {
    /// The name in lower case, without the final dot.
    pub name: String,
    /// The name in the spelling of the client, without the final dot.
    pub spelled: String,
    /// The record type.
    pub record_type: RecordType,
    /// True if the question arrived over TCP.
    pub tcp: bool,
    /// True if the question had an OPT record (EDNS).
    pub edns: bool,
    /// The time at which the question arrived.
    pub at: Instant,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    asked: Notify,
}

#[derive(Debug, Default)]
struct State {
    zone: Zone,
    faults: HashMap<FaultScope, Fault>,
    log: Vec<Asked>,
    log_off: bool,
    transport: Transport,
}

/// The response to a packet.
enum Reply {
    Send(Vec<u8>),
    Nothing,
    /// Closes the connection on which the packet arrived.
    Close,
}

impl Shared {
    async fn reply(&self, packet: &[u8], tcp: bool) -> Reply {
        let Ok(request) = Message::from_vec(packet) else {
            return Reply::Nothing;
        };
        if request.metadata.message_type != MessageType::Query {
            return Reply::Nothing;
        }
        let limit = if tcp {
            u16::MAX
        } else {
            request.max_payload().min(UDP_LIMIT)
        };
        let mut response = response_to(&request);
        let [question] = request.queries.as_slice() else {
            response.metadata.response_code = ResponseCode::FormErr;
            return wire::encode(&response, limit);
        };
        if request.metadata.op_code != OpCode::Query {
            response.metadata.response_code = ResponseCode::NotImp;
            return wire::encode(&response, limit);
        }

        let fault = self.log(&request, question, tcp);
        let transport = self.lock().transport;
        match (transport, tcp) {
            (Transport::UdpOnly, true) => return Reply::Close,
            (Transport::UdpOnlyTcpSilent, true) | (Transport::TcpOnly, false) => {
                return Reply::Nothing;
            }
            _ => {}
        }
        match fault {
            Some(Fault::Drop) => return Reply::Nothing,
            Some(Fault::Garbage) => return Reply::Send(wire::garbage(&request)),
            Some(Fault::TruncateNoTcp) if tcp => return Reply::Close,
            Some(Fault::TruncateUdp) if tcp => {}
            Some(Fault::Delay(delay)) => sleep(delay).await,
            _ => {}
        }
        {
            let state = self.lock();
            state.zone.answer(question, &mut response);
            if let Some(fault) = fault {
                fault.apply(question, &state.zone, tcp, &mut response);
            }
        }
        wire::encode(&response, limit)
    }

    /// Logs the question and returns the fault of its answer.
    fn log(&self, request: &Message, question: &Query, tcp: bool) -> Option<Fault> {
        let spelled = plain(question.name());
        let asked = Asked {
            name: spelled.to_ascii_lowercase(),
            spelled: spelled.clone(),
            record_type: question.query_type(),
            tcp,
            edns: request.edns.is_some(),
            at: Instant::now(),
        };
        let mut state = self.lock();
        if !state.log_off {
            state.log.push(asked);
        }
        self.asked.notify_waiters();
        let fault = FaultScope::of(question).find_map(|scope| state.faults.get(&scope).copied());
        fault.and_then(|fault| fault.of(request, &spelled))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn response_to(request: &Message) -> Message {
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    response.metadata.authoritative = true;
    response.metadata.recursion_desired = request.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.add_queries(request.queries.iter().cloned());
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_LIMIT);
        response.set_edns(edns);
    }
    response
}

fn absolute(name: &str) -> Name {
    let mut name = Name::from_ascii(name).expect("the test gives a valid domain name");
    name.set_fqdn(true);
    name
}

fn plain(name: &Name) -> String {
    let mut text = name.to_ascii();
    if text.ends_with('.') {
        text.pop();
    }
    text
}

const UDP_LIMIT: u16 = 4096;
