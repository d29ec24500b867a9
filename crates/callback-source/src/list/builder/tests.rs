use super::*;
use crate::{Question, ResolveError, ResolveErrorKind};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn every_setting_reaches_the_set() {
    let host = |name: &str| name.parse::<HostName>().unwrap();
    let net = |text: &str| text.parse::<IpNet>().unwrap();
    let resolver = async |_: Question| Err(ResolveError::new(ResolveErrorKind::Timeout));
    let (list, _refresher) = AllowList::builder()
        .environment(vipps::Environment::Test)
        .host(host("a.example"))
        .hosts([host("b.example"), host("c.example")])
        .net(net("20.0.0.0/8"))
        .and_then(|builder| builder.nets([net("21.0.0.0/8"), net("2a01::/32")]))
        .unwrap()
        .ttl_bounds(2 * SECOND, 3 * SECOND)
        .unwrap()
        .linger(4 * SECOND)
        .stale_for(5 * SECOND)
        .max_backoff(6 * SECOND)
        .max_addresses(7)
        .max_lingering(8)
        .question_time_limit(9 * SECOND)
        .only_family(Family::V6)
        .insecure_allow_special_addresses()
        .pair(resolver);
    let rules = Rules {
        min_ttl: 2 * SECOND,
        max_ttl: 3 * SECOND,
        linger: 4 * SECOND,
        stale_for: 5 * SECOND,
        max_backoff: 6 * SECOND,
        max_addresses: 7,
        max_lingering: 8,
        question_time_limit: 9 * SECOND,
        only_family: Some(Family::V6),
        insecure_allow_special_addresses: true,
    };
    let set = list.snapshot();
    assert_eq!(*set.rules(), rules);
    let hosts: Vec<_> = set.hosts().map(ToString::to_string).collect();
    let of_test = vipps::Environment::Test.hosts();
    let of_test = of_test.into_iter().map(|host| host.to_string());
    let others = ["a.example", "b.example", "c.example"].map(str::to_owned);
    assert_eq!(hosts, of_test.chain(others).collect::<Vec<_>>());
    let networks: Vec<_> = set.networks().map(|network| network.to_string()).collect();
    assert_eq!(networks, ["20.0.0.0/7", "2a01::/32"]);
}

#[test]
fn the_settings_of_unlisted_peers_are_kept() {
    let host: HostName = "w.example".parse().unwrap();
    let builder = AllowList::builder()
        .watch([host.clone()])
        .on_demand_interval(2 * SECOND)
        .on_demand_wait(3 * SECOND)
        .max_waiting(4);
    assert_eq!(builder.watch, [host]);
    let OnDemandLimits {
        interval,
        wait,
        waiters,
    } = builder.on_demand;
    assert_eq!((interval, wait, waiters), (2 * SECOND, 3 * SECOND, 4));
}

#[test]
fn a_file_is_kept_or_only_restored() {
    let file = |builder: AllowListBuilder| (builder.state_file, builder.restore_only);
    let path = Some(PathBuf::from("state.json"));
    let kept = AllowList::builder().state_file("state.json");
    assert_eq!(file(kept), (path.clone(), false));
    let restored = AllowList::builder().restore_from("state.json");
    assert_eq!(file(restored), (path, true));
}

#[test]
fn ttl_bounds_are_at_least_one_second_and_in_order() {
    let bounds = |min, max| AllowList::builder().ttl_bounds(min, max).is_ok();
    let below = SECOND - Duration::from_nanos(1);
    assert!(bounds(SECOND, SECOND));
    assert!(bounds(SECOND, 2 * SECOND));
    assert!(!bounds(below, SECOND));
    assert!(!bounds(2 * SECOND, 2 * SECOND - Duration::from_nanos(1)));
}
