//! Encoder and decoder of DNS messages, for the simulated servers. The code does not use hickory. Otherwise, an error
//! in hickory's encoder could hide the same error in hickory's decoder.

use std::net::IpAddr;

/// A question as received.
#[derive(Debug)]
pub(crate) struct Query {
    id: [u8; 2],
    /// Name, type and class, as in the message.
    question: Vec<u8>,
    /// Name in lower case, without the final dot.
    pub(crate) name: String,
    pub(crate) is_lower_case: bool,
    pub(crate) family: u8,
    /// Maximum size of a response over UDP in bytes, if the question has EDNS.
    pub(crate) edns: Option<u16>,
}

/// Content of a response.
#[derive(Clone, Debug)]
pub(crate) enum Said {
    Addresses {
        addresses: Vec<IpAddr>,
        ttl: u32,
        alias: Alias,
    },
    Denial {
        no_data: bool,
        ttl: u32,
    },
    Code(u8),
    /// The name is an alias of itself.
    Loop,
    Garbage,
    Truncated,
}

/// The way in which a response contains an alias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alias {
    None,
    /// The response contains the alias and the addresses.
    Joined,
    /// The response contains only the alias, so the resolver must ask for the target.
    Apart,
}

impl Query {
    pub(crate) fn read(message: &[u8]) -> Option<Self> {
        let header = message.first_chunk::<12>()?;
        let mut labels = Vec::new();
        let mut at = 12;
        loop {
            let length = usize::from(*message.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            labels.push(str::from_utf8(message.get(at..at + length)?).ok()?);
            at += length;
        }
        let (name_type, rest) = (message.get(at..at + 4)?, message.get(at + 4..)?);
        let name = labels.join(".");
        // The root name and the type of EDNS.
        let edns = rest.strip_prefix(&[0, 0, 41]);
        let payload = edns.and_then(|edns| edns.first_chunk::<2>());
        Some(Self {
            id: [header[0], header[1]],
            question: message[12..at + 4].to_vec(),
            is_lower_case: name == name.to_lowercase(),
            name: name.to_lowercase(),
            family: match name_type {
                [0, 1, 0, 1] => 0,
                [0, 28, 0, 1] => 1,
                _ => return None,
            },
            edns: payload.map(|payload| u16::from_be_bytes(*payload)),
        })
    }

    /// Encodes the response. Over UDP, a response above the client's maximum size is truncated: it has no records. Also
    /// returns whether the response was truncated.
    pub(crate) fn respond(&self, said: &Said, over_udp: bool, respell: bool) -> (Vec<u8>, bool) {
        let whole = self.write(said, respell);
        let most = self.edns.map_or(512, |most| most.max(512));
        if over_udp && usize::from(most) < whole.len() {
            return (self.write(&Said::Truncated, respell), true);
        }
        (whole, matches!(said, Said::Truncated))
    }

    fn write(&self, said: &Said, respell: bool) -> Vec<u8> {
        let mut sections = Sections::default();
        let mut code = 0;
        match said {
            Said::Garbage => {
                // The header announces a question, but the message contains only the first three bytes of the question.
                let mut message = self.header(0, false, [1, 0, 0, 0]);
                message.extend(&self.question[..3]);
                return message;
            }
            Said::Truncated => {}
            Said::Code(of) => code = *of,
            Said::Addresses {
                addresses,
                ttl,
                alias,
            } => {
                let mut owner = QUESTION.to_vec();
                if *alias != Alias::None {
                    let target = self.target();
                    sections.answer(&owner, CNAME, *ttl, &target);
                    owner = target;
                }
                if *alias != Alias::Apart {
                    for address in addresses {
                        match address {
                            IpAddr::V4(of) => sections.answer(&owner, A, *ttl, &of.octets()),
                            IpAddr::V6(of) => sections.answer(&owner, AAAA, *ttl, &of.octets()),
                        }
                    }
                }
            }
            Said::Denial { no_data, ttl } => {
                code = if *no_data { 0 } else { 3 };
                // The SOA record of the root zone: a name, a mailbox, and five numbers. The last number is the
                // negative TTL.
                let mut soa = vec![0, 0];
                for number in [1, 3600, 600, 86400, *ttl] {
                    soa.extend(number.to_be_bytes());
                }
                sections.authority(&[0], SOA, *ttl, &soa);
            }
            Said::Loop => sections.answer(&QUESTION, CNAME, 60, &QUESTION),
        }
        let truncated = matches!(said, Said::Truncated);
        let additional = u16::from(self.edns.is_some());
        let counts = [1, sections.answers, sections.authorities, additional];
        let mut message = self.header(code, truncated, counts);
        match respell {
            // Lower-casing cannot change the lengths of labels, the type or the class: none of their bytes is a letter.
            true => message.extend(self.question.to_ascii_lowercase()),
            false => message.extend(&self.question),
        }
        message.extend(sections.records);
        if self.edns.is_some() {
            message.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
        }
        message
    }

    fn header(&self, code: u8, truncated: bool, counts: [u16; 4]) -> Vec<u8> {
        let mut header = self.id.to_vec();
        // The flags of a response: recursion is desired and available.
        header.extend([0x81 | u8::from(truncated) << 1, 0x80 | code]);
        header.extend(counts.iter().flat_map(|count| count.to_be_bytes()));
        header
    }

    /// Returns the target of the alias.
    fn target(&self) -> Vec<u8> {
        let label = TARGET.trim_end_matches('.');
        let mut target = vec![label.len() as u8];
        target.extend(label.as_bytes());
        target.extend(QUESTION);
        target
    }
}

#[derive(Default)]
struct Sections {
    answers: u16,
    authorities: u16,
    records: Vec<u8>,
}

impl Sections {
    fn answer(&mut self, owner: &[u8], kind: u8, ttl: u32, data: &[u8]) {
        self.answers += 1;
        self.record(owner, kind, ttl, data);
    }

    fn authority(&mut self, owner: &[u8], kind: u8, ttl: u32, data: &[u8]) {
        self.authorities += 1;
        self.record(owner, kind, ttl, data);
    }

    fn record(&mut self, owner: &[u8], kind: u8, ttl: u32, data: &[u8]) {
        let length = u16::try_from(data.len()).unwrap_or(u16::MAX);
        self.records.extend(owner);
        self.records.extend([0, kind, 0, 1]);
        self.records.extend(ttl.to_be_bytes());
        self.records.extend(length.to_be_bytes());
        self.records.extend(data);
    }
}

/// An alias's target is this prefix and the name in the question.
pub(crate) const TARGET: &str = "edge.";

/// A pointer to the name of the question.
const QUESTION: [u8; 2] = [0xc0, 12];

const A: u8 = 1;
const CNAME: u8 = 5;
const SOA: u8 = 6;
const AAAA: u8 = 28;

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\x01\x03oNe\x04test\0\0\x01\0\x01\0\0\x29\x04\xd0\0\0\0\0\0\0";

    #[test]
    fn a_question_keeps_its_spelling_and_its_edns() {
        let query = Query::read(ASKED).expect("a question");
        assert_eq!(query.name, "one.test");
        assert!(!query.is_lower_case);
        assert_eq!((query.family, query.edns), (0, Some(1232)));
    }

    #[test]
    fn a_response_too_large_for_a_packet_is_truncated() {
        let query = Query::read(ASKED).expect("a question");
        let said = Said::Addresses {
            addresses: vec![IpAddr::from([192, 0, 2, 1]); 300],
            ttl: 60,
            alias: Alias::Joined,
        };
        let (packet, cut) = query.respond(&said, true, false);
        assert!(cut && packet.len() < 512);
        assert_eq!(packet[..4], [0x12, 0x34, 0x83, 0x80]);
        let (message, cut) = query.respond(&said, false, false);
        assert!(!cut);
        assert_eq!(message[4..8], [0, 1, 1, 45]);
    }
}
