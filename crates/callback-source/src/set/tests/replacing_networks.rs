//! Tests of static networks that are replaced at run time.

use super::*;

#[test]
fn peers_of_added_networks_are_admitted_and_those_of_removed_ones_refused_at_once() {
    let mut world = World::new(1);
    world.answer_each(300);
    let [old, new] = ["198.51.100.0/24", "203.0.113.0/24"].map(|text| text.parse().unwrap());
    for networks in [&[old][..], &[old, new], &[new], &[]] {
        world.set.replace_networks(networks, world.now).unwrap();
        for (network, peer) in [(old, "198.51.100.7"), (new, "203.0.113.7")] {
            let expected = match networks.contains(&network) {
                true => "static",
                false => "not-listed",
            };
            assert_eq!(world.verdict(peer), expected, "{networks:?}");
        }
        assert_eq!(world.verdict(&own_address(0)), "fresh");
    }
}

#[test]
fn a_whole_family_is_refused_and_changes_nothing() {
    let mut world = World::new(0);
    let network = "198.51.100.0/24".parse().unwrap();
    world.set.replace_networks(&[network], world.now).unwrap();
    let halves = ["0.0.0.0/1", "128.0.0.0/1"].map(|text| text.parse().unwrap());
    assert!(world.set.replace_networks(&halves, world.now).is_err());
    assert_eq!(world.verdict("198.51.100.7"), "static");
    assert_eq!(world.verdict("203.0.113.7"), "not-listed");
}

#[test]
fn a_set_without_hosts_and_networks_is_undecided() {
    let mut world = World::new(0);
    assert_eq!(world.verdict("198.51.100.7"), "unresolved");
    let network = "198.51.100.0/24".parse().unwrap();
    world.set.replace_networks(&[network], world.now).unwrap();
    assert!(world.set.is_ready(world.now));
    world.set.replace_networks(&[], world.now).unwrap();
    assert_eq!(world.verdict("198.51.100.7"), "unresolved");
    assert!(!world.set.is_ready(world.now));
}
