//! One query and its response, over UDP or TCP.
//!
//! Over UDP, hickory's client checks the id, the source address and the letter case. Over TCP, hickory's client checks
//! only the id. hickory's pool would reject records of another class, but this crate does not use that pool. This
//! module performs the missing checks.

use std::net::SocketAddr;

use futures_util::StreamExt;
use hickory_resolver::{
    net::{
        DnsError, NetError,
        tcp::TcpClientStream,
        udp::UdpClientStream,
        xfer::{DnsMultiplexer, DnsRequestSender},
    },
    proto::{
        ProtoError,
        op::{DnsRequest, DnsResponse, Message, Query, ResponseCode},
        rr::{DNSClass, Record},
    },
};

use super::TIME_LIMIT;

#[cfg(callback_source_simulation)]
use crate::simulation::network::Provider;
#[cfg(not(callback_source_simulation))]
use hickory_resolver::net::runtime::TokioRuntimeProvider as Provider;

pub(super) async fn over_udp(
    server: SocketAddr,
    request: DnsRequest,
    asked: Query,
    most_sent: u8,
) -> Result<Message, NetError> {
    let mut socket = UdpClientStream::builder(server, Provider::default())
        .with_timeout(Some(TIME_LIMIT))
        .with_max_retries(most_sent)
        .build();
    let response = socket.send_message(request).next().await;
    checked(response.unwrap_or(Err(NetError::Timeout))?, &asked)
}

/// Sends a query over a new TCP connection. A connection that is kept open can break unnoticed. The next query over
/// that connection would then wait until its time limit.
pub(super) async fn over_tcp(
    server: SocketAddr,
    request: DnsRequest,
    asked: Query,
) -> Result<Message, NetError> {
    let provider = Provider::default();
    let (connecting, sender) = TcpClientStream::new(server, None, Some(TIME_LIMIT), provider);
    let mut connection = DnsMultiplexer::new(connecting.await?, sender).with_timeout(TIME_LIMIT);
    let mut response = connection.send_message(request);
    let response = loop {
        tokio::select! {
            biased;
            response = response.next() => break response,
            driven = connection.next() => if !matches!(driven, Some(Ok(()))) {
                break response.next().await;
            }
        }
    };
    checked(response.unwrap_or(Err(NetError::Timeout))?, &asked)
}

/// Checks a response. hickory checks the class only in its pool, and does not compare the question over TCP.
fn checked(response: DnsResponse, asked: &Query) -> Result<Message, NetError> {
    let code = response.response_code;
    let is_error = !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain);
    if is_error && response.queries.is_empty() {
        return Err(DnsError::ResponseCode(code).into());
    }
    if response.queries.as_slice() != std::slice::from_ref(asked) {
        return Err(ProtoError::from("the response is to another question").into());
    }
    let foreign = |record: &&Record| record.dns_class != DNSClass::IN;
    if let Some(record) = response.all_sections().find(foreign) {
        return Err(NetError::ForeignClassRecord {
            record_name: record.name.clone(),
            record_class: record.dns_class,
            record_type: record.record_type(),
        });
    }
    let message = DnsError::from_response(response)?.into_message();
    match is_error {
        true => Err(DnsError::ResponseCode(code).into()),
        false => Ok(message),
    }
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::rr::{Name, RecordType};

    use super::{
        super::test_messages::{message, query},
        *,
    };
    use crate::{ResolveErrorKind, dns::hickory::chain::kind_of};

    #[test]
    fn a_response_to_another_question_is_refused() {
        let asked = query();
        let response = |queries: Vec<Query>, code| {
            let mut message = message(&[1]);
            message.queries = queries;
            message.metadata.response_code = code;
            checked(DnsResponse::from_message(message).unwrap(), &asked)
        };
        let other = Query::query(Name::root(), RecordType::A);
        assert!(response(vec![query()], ResponseCode::NoError).is_ok());
        for queries in [vec![], vec![other.clone()], vec![query(), other]] {
            for code in [ResponseCode::NoError, ResponseCode::NXDomain] {
                let error = response(queries.clone(), code).unwrap_err();
                assert_eq!(kind_of(&error), ResolveErrorKind::Malformed);
            }
        }
        // An error response may consist of the header alone (twelve bytes).
        let error = response(vec![], ResponseCode::FormErr).unwrap_err();
        assert_eq!(kind_of(&error), ResolveErrorKind::ErrorCode);
        let unheard_of = response(vec![query()], ResponseCode::Unknown(12)).unwrap_err();
        assert_eq!(kind_of(&unheard_of), ResolveErrorKind::ErrorCode);
    }
}
