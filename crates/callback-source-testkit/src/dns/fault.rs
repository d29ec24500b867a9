use std::time::Duration;

use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{CNAME, NS},
    },
};

use super::{absolute, zone::Zone};

/// A fault of an answer.
///
/// See the [module docs](super) for an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// This response code, without records and without an SOA.
    Rcode(ResponseCode),
    /// No answer.
    Drop,
    /// The id of the question, followed by bytes that are not a DNS message.
    Garbage,
    /// An answer with a wrong id.
    WrongId,
    /// The correct answer, but its question is for the parent of the name.
    WrongQuestion,
    /// The correct answer, but it repeats the question in lower case, whatever the client's spelling.
    LowerCaseEcho,
    /// Records of class CHAOS.
    WrongClass,
    /// Over UDP, an empty, truncated answer. Over TCP, the correct answer.
    TruncateUdp,
    /// Over UDP, a truncated answer with only its first record. Over TCP, the connection is closed without an answer.
    TruncateNoTcp,
    /// The correct answer after a delay.
    Delay(Duration),
    /// The answer for a known name without records, with an SOA unless the server omits it.
    NoData,
    /// The answer for a known name without records, never with an SOA.
    NoDataWithoutSoa,
    /// A CNAME from the name to itself.
    CnameLoop,
    /// NXDOMAIN, with a CNAME to a name that does not exist.
    CnameToNowhere,
    /// This code, without records, for a question with EDNS (an OPT record). Other questions get the correct answer.
    RefuseEdns(ResponseCode),
    /// Like [`RefuseEdns`](Self::RefuseEdns), but the response has only twelve bytes and does not repeat the
    /// question.
    RefuseEdnsBriefly(ResponseCode),
    /// No answer to a question with EDNS.
    DropEdns,
    /// This code, without records, for a question that is not in lower case. Other questions get the correct answer.
    LowerCaseOnly(ResponseCode),
    /// No answer to a question that is not in lower case.
    DropMixedCase,
    /// A response of a lame server: it has no answer, is not authoritative, and has a name server of the parent as
    /// authority.
    Referral,
}

impl Fault {
    /// Returns the fault if it applies to this question. Some faults apply only to some questions.
    pub(super) fn of(self, request: &Message, spelled: &str) -> Option<Self> {
        let edns = request.edns.is_some();
        let lower = !spelled.bytes().any(|byte| byte.is_ascii_uppercase());
        match self {
            Self::RefuseEdns(code) => edns.then_some(Self::Rcode(code)),
            Self::RefuseEdnsBriefly(_) => edns.then_some(self),
            Self::DropEdns => edns.then_some(Self::Drop),
            Self::LowerCaseOnly(code) => (!lower).then_some(Self::Rcode(code)),
            Self::DropMixedCase => (!lower).then_some(Self::Drop),
            _ => Some(self),
        }
    }

    /// Turns the correct answer into the faulty answer, if the fault changes the message itself.
    pub(super) fn apply(self, question: &Query, zone: &Zone, tcp: bool, response: &mut Message) {
        let name = question.name();
        match self {
            Self::Drop
            | Self::Garbage
            | Self::Delay(_)
            | Self::RefuseEdns(_)
            | Self::DropEdns
            | Self::LowerCaseOnly(_)
            | Self::DropMixedCase => {}
            Self::RefuseEdnsBriefly(code) => {
                empty(response, code);
                response.queries.clear();
                response.edns = None;
            }
            Self::WrongId => response.metadata.id ^= 1,
            Self::WrongQuestion => {
                let other = Query::query(name.base_name(), question.query_type());
                response.queries = vec![other];
            }
            Self::LowerCaseEcho => {
                let lower = Query::query(name.to_lowercase(), question.query_type());
                response.queries = vec![lower];
            }
            Self::WrongClass => {
                for record in &mut response.answers {
                    record.dns_class = DNSClass::CH;
                }
            }
            Self::TruncateUdp | Self::TruncateNoTcp if tcp => {}
            Self::TruncateUdp => *response = response.truncate(),
            Self::TruncateNoTcp => {
                response.metadata.truncation = true;
                response.answers.truncate(1);
            }
            Self::Rcode(code) => empty(response, code),
            Self::NoData => {
                empty(response, ResponseCode::NoError);
                zone.deny(name, response);
            }
            Self::NoDataWithoutSoa => empty(response, ResponseCode::NoError),
            Self::CnameLoop => {
                empty(response, ResponseCode::NoError);
                response.add_answer(cname(name, name.clone()));
            }
            Self::CnameToNowhere => {
                empty(response, ResponseCode::NXDomain);
                response.add_answer(cname(name, absolute("nowhere.invalid")));
                zone.deny(name, response);
            }
            Self::Referral => {
                empty(response, ResponseCode::NoError);
                response.metadata.authoritative = false;
                let server = RData::NS(NS(absolute("ns.invalid")));
                response.add_authority(Record::from_rdata(name.base_name(), TTL, server));
            }
        }
    }
}

/// The questions that a [`Fault`] applies to.
///
/// See the [module docs](super) for an example.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FaultScope {
    /// Every question.
    Everything,
    /// Questions for this name. Converted from a `&str`.
    Name(Name),
    /// Questions for this name and type. Converted from a `(&str, RecordType)`.
    Question(Name, RecordType),
}

impl FaultScope {
    /// The scopes of a question, narrowest first.
    pub(super) fn of(question: &Query) -> impl Iterator<Item = Self> {
        let name = question.name();
        [
            Self::Question(name.clone(), question.query_type()),
            Self::Name(name.clone()),
            Self::Everything,
        ]
        .into_iter()
    }
}

impl From<&str> for FaultScope {
    fn from(name: &str) -> Self {
        Self::Name(absolute(name))
    }
}

impl From<(&str, RecordType)> for FaultScope {
    fn from((name, record_type): (&str, RecordType)) -> Self {
        Self::Question(absolute(name), record_type)
    }
}

fn empty(response: &mut Message, code: ResponseCode) {
    response.metadata.response_code = code;
    response.answers.clear();
    response.authorities.clear();
}

fn cname(name: &Name, target: Name) -> Record {
    Record::from_rdata(name.clone(), TTL, RData::CNAME(CNAME(target)))
}

const TTL: u32 = 60;
