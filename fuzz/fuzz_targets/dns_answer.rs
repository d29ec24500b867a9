//! Fuzz target for DNS responses. For any messages, an answer contains only addresses on the CNAME chain of the
//! question, and the resolver stops following the chain at some point.

#![no_main]

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use callback_source::{AllowSet, Family, HostName, Question, fuzzing, set::Rules};
use hickory_proto::{
    op::Message,
    rr::{DNSClass, Name, RData},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((family, mut rest)) = input.split_first() else {
        return;
    };
    let family = Family::ALL[usize::from(family & 1)];
    let mut packets = Vec::new();
    // Format of the input after the first byte: the messages, each after its length, as over TCP.
    while let [high, low, after @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
        packets.push(after[..length].to_vec());
        rest = &after[length..];
    }
    let host: HostName = HOST.parse().expect("it is a name");
    let question = Question { host, family };
    let followed = fuzzing::followed(&question, packets.clone());

    let now = tokio::time::Instant::now().into_std();
    let mut set = AllowSet::new(Rules::default(), [question.host.clone()], &[], now)
        .expect("no network is too wide");
    let outcome = match followed {
        None => return,
        Some(Err(error)) => {
            assert!(!error.to_string().is_empty());
            Err(error)
        }
        Some(Ok(answer)) => {
            assert!(!answer.addresses().is_empty());
            assert!(answer.ttl() <= Duration::from_secs(u64::from(u32::MAX >> 1)));
            let on_chain = on_chain(&packets, family);
            for address in answer.addresses() {
                assert!(on_chain.contains(address), "{address} is off the chain");
            }
            Ok(answer)
        }
    };
    let answered = outcome.clone();
    set.apply(&question, outcome, now);
    let admitted = set.addresses(now);
    assert!(admitted.len() <= 256);
    for address in &admitted {
        let answer = answered.as_ref().expect("a failure admits no address");
        assert!(answer.addresses().contains(address));
        assert!(!address.is_loopback() && !address.is_unspecified() && !address.is_multicast());
        assert!(!matches!(address, IpAddr::V4(address) if address.is_private()));
    }
});

/// Returns all addresses that any message contains for the name of the question or for a name on its alias chain.
fn on_chain(packets: &[Vec<u8>], family: Family) -> BTreeSet<IpAddr> {
    let messages = packets
        .iter()
        .filter_map(|packet| Message::from_vec(packet).ok());
    let records: Vec<_> = messages
        .flat_map(|message| message.answers)
        .filter(|record| record.dns_class == DNSClass::IN)
        .collect();
    let mut start = Name::from_ascii(HOST).expect("it is a name");
    start.set_fqdn(true);
    let mut names = vec![start];
    let mut at = 0;
    while let Some(name) = names.get(at).cloned() {
        for record in &records {
            if let RData::CNAME(target) = &record.data
                && record.name == name
                && !names.contains(&target.0)
            {
                names.push(target.0.clone());
            }
        }
        at += 1;
    }
    let addresses = records.iter().filter(|record| names.contains(&record.name));
    let addresses = addresses.filter_map(|record| match (family, &record.data) {
        (Family::V4, RData::A(address)) => Some(IpAddr::V4(address.0)),
        (Family::V6, RData::AAAA(address)) => Some(IpAddr::V6(address.0).to_canonical()),
        _ => None,
    });
    addresses.collect()
}

const HOST: &str = "callback-1.vipps.no";
