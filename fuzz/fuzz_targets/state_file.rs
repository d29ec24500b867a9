//! Fuzz target for state files. For any content, the admitted addresses are valid, and they are admitted no longer than
//! the windows allow. A list saves the restored state unchanged, even if its hosts are not the hosts in the file.

#![no_main]

use std::{net::IpAddr, time::Duration};

use callback_source::{AllowSet, fuzzing, set::Rules, vipps::Environment};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let rules = Rules::default();
    let hosts: Vec<_> = Environment::Test.hosts().collect();
    // The clock must be long after its epoch, so that earlier times can be represented.
    let now = tokio::time::Instant::now().into_std();
    let empty = AllowSet::new(rules.clone(), hosts.clone(), &[], now);
    let empty = empty.expect("no network is too wide");

    let mut set = empty.clone();
    let taken = fuzzing::restored(&mut set, text, now, UTC);
    let admitted = set.addresses(now);
    if !taken {
        assert!(admitted.is_empty());
    }
    let most = rules.max_lingering + 2 * rules.max_addresses;
    assert!(admitted.len() <= hosts.len() * most);
    for address in &admitted {
        assert!(set.verdict(*address, now).is_allowed());
        assert_eq!(*address, address.to_canonical());
        assert!(!address.is_loopback() && !address.is_unspecified() && !address.is_multicast());
        assert!(!matches!(address, IpAddr::V4(address) if address.is_private()));
    }
    let over = now + rules.max_ttl + rules.stale_for + rules.linger + Duration::from_secs(10);
    assert!(set.addresses(over).is_empty());

    let saved = fuzzing::saved(&set, now, UTC);
    let mut again = empty.clone();
    assert!(fuzzing::restored(&mut again, &saved, now, UTC));
    assert_eq!(again.addresses(now), admitted);
    let later = now + rules.linger;
    assert_eq!(again.addresses(later), set.addresses(later));

    let other = "other.example".parse().expect("a host name");
    let mut other = AllowSet::new(rules, [other], &[], now).expect("no network is too wide");
    let rewritten = fuzzing::rewritten(&mut other, text, now, UTC);
    assert_eq!(rewritten.is_some(), taken);
    if let Some(text) = rewritten {
        let mut again = empty;
        assert!(fuzzing::restored(&mut again, &text, now, UTC));
        for at in [now, later] {
            assert_eq!(again.addresses(at), set.addresses(at));
        }
    }
});

/// Time at which the seed files were written, since the Unix epoch.
const UTC: Duration = Duration::from_secs(1_780_000_000);
