//! Forms of a query: with or without EDNS, random case and UDP.
//!
//! Each of these features protects or speeds up most lookups, but not every server supports all of them. A table in
//! `docs/design.md` lists the forms, each with the fault that it works around.

use std::net::SocketAddr;

use futures_util::{
    FutureExt,
    future::{BoxFuture, join},
};
use hickory_resolver::{
    net::NetError,
    proto::{
        ProtoError,
        op::{DnsRequest, DnsRequestOptions, Message, Query},
        rr::Record,
    },
};

use super::{
    exchange::{over_tcp, over_udp},
    is_denial,
};
use crate::dns::hickory::chain::kind_of;

/// Form in which a query is sent.
///
/// Random letter case makes answers hard to forge. A query in lower case lacks this protection. Over UDP, such a query
/// is therefore sent twice, and only the records that both answers contain are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A query over UDP, with EDNS, in random case.
    Full,
    /// A query over UDP, without EDNS, in random case.
    Bare,
    /// A query over TCP, without EDNS, in lower case.
    Tcp,
    /// Two queries over UDP, without EDNS, in lower case.
    Pair,
}

impl Form {
    pub(super) fn ask(
        self,
        server: SocketAddr,
        query: &Query,
    ) -> BoxFuture<'static, (Self, Result<Message, NetError>)> {
        let asked = query.clone();
        let mut options = DnsRequestOptions::default();
        options.use_edns = self == Self::Full;
        options.case_randomization = !self.is_plain();
        let mut query = query.clone();
        if self.is_plain() {
            query.name = query.name.to_lowercase();
        }
        let request = || DnsRequest::from_query(query.clone(), options);
        let response = match self {
            Self::Full => over_udp(server, request(), asked, MAX_SENT_FULL).boxed(),
            Self::Bare => over_udp(server, request(), asked, MAX_SENT).boxed(),
            Self::Tcp => over_tcp(server, request(), asked).boxed(),
            Self::Pair => {
                let one = over_udp(server, request(), asked.clone(), MAX_SENT);
                let other = over_udp(server, request(), asked, MAX_SENT);
                join(one, other)
                    .map(|(one, other)| agreed(one, other))
                    .boxed()
            }
        };
        response.map(move |outcome| (self, outcome)).boxed()
    }

    /// Returns true for a form in lower case, which every server understands.
    pub(super) fn is_plain(self) -> bool {
        matches!(self, Self::Tcp | Self::Pair)
    }
}

/// Intersects two answers to a query in lower case. A forger would have to forge both answers.
fn agreed(
    one: Result<Message, NetError>,
    other: Result<Message, NetError>,
) -> Result<Message, NetError> {
    match (one, other) {
        (Ok(mut one), Ok(other)) if one.response_code == other.response_code => {
            let same = |record: &Record, other: &Record| {
                record.name == other.name && record.data == other.data
            };
            one.answers
                .retain(|record| other.answers.iter().any(|other| same(record, other)));
            one.metadata.truncation |= other.truncation;
            Ok(one)
        }
        (Err(one), Err(other)) if kind_of(&one) == kind_of(&other) => Err(one),
        (Err(error), _) | (_, Err(error)) if !is_denial(&error) => Err(error),
        _ => Err(ProtoError::from("two answers to the same query differ").into()),
    }
}

/// Maximum number of packets for one query in the full form.
const MAX_SENT_FULL: u8 = 3;
/// Maximum number of packets for one query in any other form.
const MAX_SENT: u8 = 2;

#[cfg(test)]
mod tests {
    use hickory_resolver::{net::NetError, proto::op::ResponseCode};

    use super::{
        super::test_messages::{denial, message},
        *,
    };

    #[test]
    fn the_common_records_of_two_answers_in_lower_case_are_used() {
        let both = agreed(Ok(message(&[1, 2])), Ok(message(&[3, 2]))).unwrap();
        assert_eq!(both.answers, message(&[2]).answers);
        let neither = agreed(Ok(message(&[1])), Ok(message(&[2]))).unwrap();
        assert!(neither.answers.is_empty());

        let denied = || Err(denial(ResponseCode::NXDomain));
        assert!(is_denial(&agreed(denied(), denied()).unwrap_err()));
        for (one, other) in [
            (denied(), Ok(message(&[1]))),
            (Ok(message(&[1])), denied()),
            (denied(), Err(denial(ResponseCode::NoError))),
            (denied(), Err(NetError::Timeout)),
            (Err(NetError::Timeout), Ok(message(&[1]))),
            (Ok(message(&[1])), Err(NetError::Timeout)),
        ] {
            assert!(!is_denial(&agreed(one, other).unwrap_err()));
        }
    }
}
