//! The verdict of the source check.

use std::{
    fmt,
    net::IpAddr,
    time::{Duration, Instant},
};

use http::StatusCode;
use ipnet::IpNet;

use super::WatchedServer;
use crate::HostName;

/// Decision of a list on a peer.
///
/// | verdict | when | response |
/// |---|---|---|
/// | [`Allow`](Self::Allow) | the peer's address lingers, or is in a static network or in an answer that is in use | the inner service's |
/// | [`Reject`](Self::Reject), [`NotListed`](RejectionKind::NotListed) | every host is resolved for the peer's family, and no host has the peer's address | 403 |
/// | [`Reject`](Self::Reject), [`WrongEnvironment`](RejectionKind::WrongEnvironment) | the same, but a watched host has the peer's address | 403 |
/// | [`Reject`](Self::Reject), [`Unresolved`](RejectionKind::Unresolved) | some host is not resolved for the peer's family, or the list is empty | 503 with `Retry-After` |
/// | [`Reject`](Self::Reject), [`NoPeer`](RejectionKind::NoPeer) | the request has no peer address | 500 |
/// | [`Reject`](Self::Reject), [`Forwarded…`](RejectionKind::ForwardedMissing) | the trusted proxy's header is missing or duplicated, an entry on the walk is malformed, every hop is trusted, or the walk is too long | 400 |
///
/// [`VerifySource`](crate::verify::VerifySource) leaves the verdict in the extensions of each request that it hands
/// on:
///
/// ```
/// use callback_source::Verdict;
/// use http::Request;
///
/// fn is_from_provider<B>(request: &Request<B>) -> bool {
///     request.extensions().get::<Verdict>().is_some_and(Verdict::is_allowed)
/// }
/// # assert!(!is_from_provider(&Request::new(())));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// The peer is listed, so it may call.
    Allow(Allowed),
    /// The peer may not call, for the reason in the rejection.
    Reject(Rejection),
}

impl Verdict {
    /// Returns `true` for a peer that may call.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }

    /// The peer, if it may call, with the evidence that admits the peer.
    #[must_use]
    pub fn allowed(&self) -> Option<&Allowed> {
        match self {
            Self::Allow(allowed) => Some(allowed),
            Self::Reject(_) => None,
        }
    }

    /// The peer's address, if it is known.
    #[must_use]
    pub fn peer(&self) -> Option<IpAddr> {
        match self {
            Self::Allow(allowed) => Some(allowed.peer()),
            Self::Reject(rejection) => rejection.peer(),
        }
    }

    /// The reason why the peer may not call.
    #[must_use]
    pub fn rejection(&self) -> Option<&Rejection> {
        match self {
            Self::Allow(_) => None,
            Self::Reject(rejection) => Some(rejection),
        }
    }
}

/// A peer that may call, with the evidence that admits the peer.
///
/// It is part of the [`Verdict`] that [`VerifySource`](crate::verify::VerifySource) adds to the request's extensions.
/// With the feature `axum` it is an extractor.
///
/// ```
/// use callback_source::{AllowList, Allowed};
///
/// /// For the shop's own log of callbacks.
/// fn evidence(allowed: &Allowed) -> String {
///     let (peer, freshness) = (allowed.peer(), allowed.freshness());
///     match (allowed.host(), allowed.network()) {
///         (Some(host), _) => format!("{peer} is {host} by a {freshness} answer"),
///         (None, Some(network)) => format!("{peer} is in {network}"),
///         (None, None) => peer.to_string(),
///     }
/// }
///
/// let list = AllowList::fixed(["192.0.2.1".parse()?]);
/// let verdict = list.verdict("::ffff:192.0.2.1".parse()?);
/// let allowed = verdict.allowed().expect("the list names this address");
/// assert_eq!(evidence(allowed), "192.0.2.1 is in 192.0.2.1/32");
/// # Ok::<_, std::net::AddrParseError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    pub(crate) peer: IpAddr,
    pub(crate) source: Source,
    pub(crate) freshness: Freshness,
    pub(crate) since: Instant,
}

/// The host or static network by which a peer is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Host(HostName),
    Network(IpNet),
}

impl Allowed {
    /// The peer's address in canonical form. An IPv4 peer of a dual-stack socket has an IPv4 address.
    #[must_use]
    pub fn peer(&self) -> IpAddr {
        self.peer
    }

    /// The host whose answer contains the address, or contained it before the address began to linger. `None` if only a
    /// static network contains the address.
    #[must_use]
    pub fn host(&self) -> Option<&HostName> {
        match &self.source {
            Source::Host(host) => Some(host),
            Source::Network(_) => None,
        }
    }

    /// The static network that contains the address. `None` if `host` returns a host.
    #[must_use]
    pub fn network(&self) -> Option<IpNet> {
        match &self.source {
            Source::Host(_) => None,
            Source::Network(network) => Some(*network),
        }
    }

    /// The evidence that admits the address.
    #[must_use]
    pub fn freshness(&self) -> Freshness {
        self.freshness
    }

    /// Time of the answer that contains the address. For [`Freshness::Lingering`], it is the time at which the
    /// address left the answer. For [`Freshness::Static`], it is the time at which the list was built, or at which its
    /// static networks were last replaced.
    #[must_use]
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Time that has passed since [`since`](Self::since).
    ///
    /// The age is measured by tokio's clock, which a test can pause. By the age, a handler can recognize a callback
    /// whose peer was admitted by an old answer:
    ///
    /// ```
    /// use std::time::Duration;
    /// use callback_source::{AllowList, Freshness};
    ///
    /// # let list = AllowList::fixed(["127.0.1.1".parse().unwrap()]);
    /// let verdict = list.verdict("127.0.1.1".parse().unwrap());
    /// let allowed = verdict.allowed().expect("the list names this address");
    /// let is_old = allowed.freshness() == Freshness::Stale
    ///     && allowed.age() > Duration::from_secs(60 * 60);
    /// assert!(!is_old);
    /// ```
    #[must_use]
    pub fn age(&self) -> Duration {
        let now = tokio::time::Instant::now().into_std();
        now.saturating_duration_since(self.since)
    }
}

/// Evidence that admits an address.
///
/// ```
/// use callback_source::Freshness;
///
/// /// Ask the provider for the state of the payment before the goods are sent.
/// fn needs_confirmation(evidence: Freshness) -> bool {
///     match evidence {
///         Freshness::Static | Freshness::Fresh => false,
///         // Normal while the provider replaces a server.
///         Freshness::Lingering => false,
///         // DNS does not confirm the address at the moment.
///         Freshness::Restored | Freshness::Stale => true,
///         _ => true,
///     }
/// }
///
/// assert!(needs_confirmation(Freshness::Stale));
/// assert!(!needs_confirmation(Freshness::Lingering));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Freshness {
    /// Only a static network of the configuration contains the address.
    Static,
    /// The last answer contains the address. The TTL of the answer has not ended, or the refresh that follows its end
    /// is under way.
    Fresh,
    /// An answer from the state file contains the address, and DNS has not confirmed that answer since.
    Restored,
    /// The last valid answer contains the address. The TTL of the answer has ended, and lookups fail or the refresh is
    /// overdue.
    Stale,
    /// The last answer or believed denial omits the address, and the linger window has not ended.
    Lingering,
}

impl Freshness {
    /// The name in lower case, for logs, headers and JSON: `static`, `fresh`, …
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Fresh => "fresh",
            Self::Restored => "restored",
            Self::Stale => "stale",
            Self::Lingering => "lingering",
        }
    }
}

impl fmt::Display for Freshness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The reason why a peer may not call.
///
/// A rejecting layer adds the reason to the extensions of the *response*, so that an outer layer can distinguish one
/// 403 from another:
///
/// ```
/// use std::convert::Infallible;
/// use callback_source::{AllowList, Rejection, RejectionKind};
/// use callback_source::verify::{SocketAddrPeer, VerifySourceLayer};
/// use http::{Request, Response};
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Infallible> {
/// let merchant = service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new("shipped")));
/// let layer = VerifySourceLayer::rejecting(AllowList::fixed([]), SocketAddrPeer);
/// let response = layer.layer(merchant).oneshot(Request::new(())).await?;
/// let rejection = response.extensions().get::<Rejection>().expect("it was refused");
/// assert_eq!(rejection.kind(), RejectionKind::NoPeer);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    kind: RejectionKind,
    peer: Option<IpAddr>,
    // Boxed, so that it does not make other verdicts larger.
    watched: Option<Box<WatchedServer>>,
}

impl Rejection {
    /// Creates a rejection for this reason. `peer` is the address of the peer, or of the client that a trusted proxy
    /// names, if it is known.
    #[must_use]
    pub fn new(kind: RejectionKind, peer: Option<IpAddr>) -> Self {
        Self {
            kind,
            peer,
            watched: None,
        }
    }

    /// Creates the rejection of a peer that is a server of a watched host.
    // Not inlined, because this rejection is rare, and inlining would add instructions to every other verdict.
    #[inline(never)]
    pub(crate) fn wrong_environment(peer: IpAddr, server: WatchedServer) -> Self {
        Self {
            kind: RejectionKind::WrongEnvironment,
            peer: Some(peer),
            watched: Some(Box::new(server)),
        }
    }

    /// The kind of this rejection.
    #[must_use]
    pub fn kind(&self) -> RejectionKind {
        self.kind
    }

    /// The peer's address, if it is known. In the verdict of a list, it is in canonical form.
    #[must_use]
    pub fn peer(&self) -> Option<IpAddr> {
        self.peer
    }

    /// The watched host that has the peer's address. `None` unless the kind is
    /// [`WrongEnvironment`](RejectionKind::WrongEnvironment).
    #[must_use]
    pub fn watched_host(&self) -> Option<&HostName> {
        self.watched.as_ref().map(|server| &server.host)
    }

    /// A sentence that explains a [`WrongEnvironment`](RejectionKind::WrongEnvironment) rejection. It contains the host
    /// that the peer belongs to and, if known, the environment that the list admits. The sentence is for operators. Do
    /// not send it in a response, since it contains the peer's address.
    ///
    /// See [`AllowListBuilder::watch`](crate::AllowListBuilder::watch) for an example.
    #[must_use]
    pub fn explanation(&self) -> Option<String> {
        let peer = self.peer?;
        let server = self.watched.as_ref()?;
        Some(server.explain(peer))
    }

    /// The status of the response: 403, 503, 400 or 500.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.kind.status()
    }

    /// The text of the response, which is a single line.
    #[must_use]
    pub fn body_text(&self) -> &'static str {
        self.kind.description()
    }

    /// Pause before the sender's next try. `None` unless the verdict is undecided.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        (self.kind == RejectionKind::Unresolved).then_some(RETRY_AFTER)
    }
}

/// Shows the reason, such as `not-listed`. Contains no value from the request.
impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}

impl std::error::Error for Rejection {}

/// Reasons of a [`Rejection`].
///
/// ```
/// use callback_source::{Rejection, RejectionKind};
///
/// /// Scanners are unlisted peers, and are normal. Every other reason may refuse genuine callbacks.
/// fn raises_alarm(kind: RejectionKind) -> bool {
///     kind != RejectionKind::NotListed
/// }
///
/// assert!(raises_alarm(RejectionKind::ForwardedMissing));
/// assert_eq!(RejectionKind::ForwardedMissing.status(), 400);
///
/// // Only an undecided request is worth a retry.
/// let is_retried = |kind| Rejection::new(kind, None).retry_after().is_some();
/// assert!(is_retried(RejectionKind::Unresolved) && !is_retried(RejectionKind::NotListed));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RejectionKind {
    /// Every host is resolved for the peer's family (answered, denied or given up), and no host has the peer's address.
    /// This is also the reason if the list looks up only the other family.
    NotListed,
    /// As for [`NotListed`](Self::NotListed), but a watched host has the peer's address. Either the callback was sent
    /// to the wrong service, or the configuration names the wrong environment.
    WrongEnvironment,
    /// Some host is not resolved for the peer's family: it has neither an answer nor a believed denial within the stale
    /// window, and it is not given up. If the list is empty, this is the reason for every peer. The peer may or may not
    /// be a callback server. A retry can succeed.
    Unresolved,
    /// The request has no peer address: the service is set up wrongly.
    NoPeer,
    /// The connection comes from a trusted proxy, and the header that names the client is missing.
    ForwardedMissing,
    /// The connection comes from a trusted proxy, and an entry that is read from the header is not an address that a
    /// client can have.
    ForwardedMalformed,
    /// The connection comes from a trusted proxy, and every hop in the header is a trusted proxy, too.
    ForwardedAllTrusted,
    /// The connection comes from a trusted proxy, and its header has more than 32 entries, of which the last 32 are
    /// trusted hops.
    ForwardedTooManyHops,
    /// The connection comes from a trusted proxy, and a single-value header appears more than once.
    ForwardedDuplicate,
}

impl RejectionKind {
    /// The name in lower case, for logs, headers and metrics: `not-listed`, `unresolved`, …
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotListed => "not-listed",
            Self::WrongEnvironment => "wrong-environment",
            Self::Unresolved => "unresolved",
            Self::NoPeer => "no-peer",
            Self::ForwardedMissing => "forwarded-missing",
            Self::ForwardedMalformed => "forwarded-malformed",
            Self::ForwardedAllTrusted => "all-trusted",
            Self::ForwardedTooManyHops => "too-many-hops",
            Self::ForwardedDuplicate => "duplicate",
        }
    }

    /// The status of the response: 403, 503, 400 or 500. It is never 2xx, which would tell the sender that the
    /// callback was delivered.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::NotListed | Self::WrongEnvironment => StatusCode::FORBIDDEN,
            Self::Unresolved => StatusCode::SERVICE_UNAVAILABLE,
            Self::NoPeer => StatusCode::INTERNAL_SERVER_ERROR,
            Self::ForwardedMissing
            | Self::ForwardedMalformed
            | Self::ForwardedAllTrusted
            | Self::ForwardedTooManyHops
            | Self::ForwardedDuplicate => StatusCode::BAD_REQUEST,
        }
    }

    fn description(self) -> &'static str {
        match self {
            Self::NotListed => "this address may not send callbacks",
            Self::WrongEnvironment => {
                "this address belongs to another environment, and may not send callbacks here"
            }
            Self::Unresolved => "the callback servers cannot be looked up right now, try again",
            Self::NoPeer => "the caller's address is unknown: the service is set up wrongly",
            Self::ForwardedMissing => "the proxy does not name the caller",
            Self::ForwardedMalformed => "the proxy does not give the caller's address",
            Self::ForwardedAllTrusted => "the proxy names proxies only",
            Self::ForwardedTooManyHops => "the proxy names too many proxies",
            Self::ForwardedDuplicate => "the proxy names several callers",
        }
    }
}

impl fmt::Display for RejectionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Pause before a retry. It equals the default time limit of a question. By default, a question that failed once is due
/// again after the same time.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_age_follows_a_paused_clock() {
        let allowed = Allowed {
            peer: IpAddr::from([20, 0, 0, 1]),
            source: Source::Host("h.test".parse().unwrap()),
            freshness: Freshness::Fresh,
            since: tokio::time::Instant::now().into_std(),
        };
        assert_eq!(allowed.age(), Duration::ZERO);
        tokio::time::advance(Duration::from_secs(90)).await;
        assert_eq!(allowed.age(), Duration::from_secs(90));
    }
}
