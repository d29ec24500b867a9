//! CNAME chains, from the name of a question to its addresses.
//!
//! This module follows the chain itself, since hickory's caching client has three faults. When the chain spans several
//! responses, that client loses a TTL whose top bit is set. It also accepts records from the additional section.
//! Finally, it reports a loop as "no data", which would be a denial.

use std::{net::IpAddr, time::Duration};

use hickory_resolver::{
    net::{DnsError, NetError},
    proto::{
        op::{Message, Query, ResponseCode},
        rr::{DNSClass, Name, RData, RecordType},
    },
};

use crate::{Answer, Family, Question, ResolveError, ResolveErrorKind};

/// State of a lookup while it follows CNAMEs.
pub(super) struct Chain {
    name: Name,
    family: Family,
    ttl: u32,
    hops: usize,
}

impl Chain {
    pub(super) fn new(question: &Question) -> Result<Self, ResolveError> {
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

    /// Returns the next query, which is for the last name of the chain so far.
    pub(super) fn query(&self) -> Query {
        let record_type = match self.family {
            Family::V4 => RecordType::A,
            Family::V6 => RecordType::AAAA,
        };
        Query::query(self.name.clone(), record_type)
    }

    /// Applies the outcome of a query for `self.name`. Returns `None` if the chain led to another name that must be
    /// queried. `self.name` is then that name.
    pub(super) fn take(
        &mut self,
        asked: Result<Message, NetError>,
    ) -> Result<Option<Answer>, ResolveError> {
        match asked {
            Ok(message) => self.follow(&message),
            Err(error) => Err(self.fail(error)),
        }
    }

    /// Follows the chain through one message. Returns `None` if the message ends in a CNAME whose target must be
    /// queried. `self.name` is then that target.
    fn follow(&mut self, message: &Message) -> Result<Option<Answer>, ResolveError> {
        let before = self.hops;
        if message.response_code == ResponseCode::NXDomain {
            // Either the message contains an alias whose target does not exist, or it contains addresses and is
            // malformed.
            return Err(ResolveError::new(ResolveErrorKind::BrokenChain));
        }
        while let Some((target, ttl)) = cname_of(&self.name, message) {
            self.hops += 1;
            if self.hops > MAX_HOPS {
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
            // The message has neither an alias nor an address of this name.
            return Err(ResolveError::new(ResolveErrorKind::BrokenChain));
        }
        match negative_ttl(message) {
            Some(negative) => {
                let ttl = self.denied_for(negative);
                Err(ResolveError::new(ResolveErrorKind::NoData).with_negative_ttl(ttl))
            }
            None => Ok(None),
        }
    }

    fn fail(&self, error: NetError) -> ResolveError {
        let kind = match kind_of(&error) {
            // The name exists as an alias, but its target does not exist.
            ResolveErrorKind::NxDomain if self.hops > 0 => ResolveErrorKind::BrokenChain,
            kind => kind,
        };
        let negative = match &error {
            NetError::Dns(DnsError::NoRecordsFound(none)) => none.negative_ttl,
            _ => None,
        };
        let failed = ResolveError::new(kind);
        match negative {
            Some(ttl) => failed.with_negative_ttl(self.denied_for(ttl)),
            // The TTL is limited to that of the chain, so that the denial does not outlive the alias.
            None if self.hops > 0 && failed.is_denial() => {
                failed.with_negative_ttl(self.denied_for(NEGATIVE_TTL))
            }
            None => failed.with_cause(error),
        }
    }

    /// Returns the negative TTL of the chain's target, limited to the TTL of the chain.
    fn denied_for(&self, ttl: u32) -> Duration {
        Duration::from_secs(self.ttl.min(sane(ttl)).into())
    }
}

/// Follows a chain through packets, one response for each query, as [`HickoryResolver`](crate::HickoryResolver) does.
/// Returns `None` if the packets end before the chain ends.
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

/// Returns the negative TTL: the lower of the SOA record's TTL and its MINIMUM field (RFC 2308 section 5).
fn negative_ttl(message: &Message) -> Option<u32> {
    message
        .authorities
        .iter()
        .find_map(|record| match &record.data {
            RData::SOA(soa) => Some(sane(record.ttl).min(sane(soa.minimum))),
            _ => None,
        })
}

/// Returns a TTL unchanged, or zero if its top bit is set (RFC 2181 section 8).
fn sane(ttl: u32) -> u32 {
    if ttl.leading_zeros() == 0 { 0 } else { ttl }
}

pub(super) fn kind_of(error: &NetError) -> ResolveErrorKind {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => ResolveErrorKind::NxDomain,
            // A referral: this server is not authoritative for the zone (RFC 2308 section 2.2).
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

pub(super) const MAX_HOPS: usize = 8;

/// Default negative TTL in seconds, the same as the default of [`ResolveError::with_negative_ttl`].
const NEGATIVE_TTL: u32 = 60;
