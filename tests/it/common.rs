//! Names, addresses and small helpers that most tests share.

use std::net::{IpAddr, Ipv4Addr};

use callback_source::{
    AllowList, Family, Freshness, Question, RejectionKind, ResolveErrorKind, Verdict,
};
use callback_source_testkit::{Outcome, ScriptedResolver, set_peer};
use http::Request;
use integration_tests::merchant::host_name;

pub(crate) const HOST: &str = "callback-1.example";
pub(crate) const OTHER: &str = "callback-2.example";

/// Usually an address of [`HOST`]. [`Client`](integration_tests::http::Client) can send from it.
pub(crate) const ONE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 1, 1));
/// Usually a later address of [`HOST`], or an address of [`OTHER`].
pub(crate) const TWO: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 1, 2));
/// An address that no host has.
pub(crate) const UNLISTED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 66, 6));

/// Returns the question for the IPv4 addresses of a host.
pub(crate) fn a(host: &str) -> Question {
    question(host, Family::V4)
}

/// Returns the question for the IPv6 addresses of a host.
pub(crate) fn aaaa(host: &str) -> Question {
    question(host, Family::V6)
}

/// Makes each lookup of a host's IPv4 addresses fail for this reason.
pub(crate) fn fail(resolver: &ScriptedResolver, host: &str, kind: ResolveErrorKind) {
    resolver.set_outcome(host, Family::V4, Outcome::Failure(kind));
}

/// Returns a request without a body from this peer, for `SocketAddrPeer` and `ConnectInfoPeer`.
pub(crate) fn from(peer: IpAddr) -> Request<()> {
    let mut request = Request::new(());
    set_peer(&mut request, peer);
    request
}

/// Returns the reason of a rejection.
pub(crate) fn kind(verdict: &Verdict) -> Option<RejectionKind> {
    verdict.rejection().map(|rejection| rejection.kind())
}

/// Returns the freshness of an admitted peer.
pub(crate) fn freshness(list: &AllowList, peer: IpAddr) -> Option<Freshness> {
    let verdict = list.verdict(peer);
    verdict.allowed().map(|allowed| allowed.freshness())
}

/// Asserts that a list rejects a peer for this reason.
#[track_caller]
pub(crate) fn assert_rejected(list: &AllowList, peer: IpAddr, expected: RejectionKind) {
    let verdict = list.verdict(peer);
    assert_eq!(kind(&verdict), Some(expected), "{verdict:?}");
}

fn question(host: &str, family: Family) -> Question {
    Question {
        host: host_name(host),
        family,
    }
}
