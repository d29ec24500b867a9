//! Callers at full speed: servers that are listed only at some times, and unlisted peers.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use integration_tests::http::Connection;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    faulty_zone,
    oracle::{MAX_REPORTED, Must, Oracle},
};

/// The results of all calls.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) requests: AtomicU64,
    pub(crate) connections: AtomicU64,
    pub(crate) admitted: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) undecided: AtomicU64,
    /// The numbers of calls that had to be admitted, and of calls that had to be refused.
    pub(crate) had_to_admit: AtomicU64,
    pub(crate) had_to_refuse: AtomicU64,
    pub(crate) wrong_admissions: AtomicU64,
    pub(crate) wrong_refusals: AtomicU64,
    /// The number of 503 responses although the list could decide.
    pub(crate) wrong_indecision: AtomicU64,
    /// The number of calls without a response, or with an unexpected status.
    pub(crate) broken: AtomicU64,
    details: Mutex<Vec<String>>,
}

/// Caller that sends requests from one address after another.
pub(crate) struct Caller {
    pub(crate) server: SocketAddr,
    pub(crate) hosts: usize,
    /// True if all of these addresses are unlisted.
    pub(crate) unlisted: bool,
    pub(crate) oracle: Arc<Oracle>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) rng: Rng,
}

impl Caller {
    pub(crate) async fn run(mut self, end: Instant) {
        while Instant::now() < end {
            let source = if self.unlisted {
                faulty_zone::unlisted(self.rng.u8(0..8), self.rng.u8(1..=250))
            } else {
                let listed = self.rng.bool().then(|| self.oracle.in_zone(&mut self.rng));
                listed
                    .flatten()
                    .unwrap_or_else(|| faulty_zone::sometimes_listed(&mut self.rng, self.hosts))
            };
            // One connection in eight carries a single request, as a connection of the provider does.
            let most = if self.rng.u8(..8) == 0 { 1 } else { 2_000 };
            if let Err(error) = self.call(source, most, end).await {
                self.tally.broken.fetch_add(1, Ordering::Relaxed);
                self.tally.report(format!("{source}: {error}"));
                sleep(Duration::from_millis(100)).await;
            }
        }
    }

    /// Sends requests over one connection, for 3 s at most.
    async fn call(&mut self, source: IpAddr, most: u64, end: Instant) -> std::io::Result<()> {
        let mut server = self.server;
        match source {
            IpAddr::V4(_) => server.set_ip(IpAddr::V4([127, 0, 0, 1].into())),
            IpAddr::V6(_) => server.set_ip(source),
        }
        let mut connection = timeout(PATIENCE, Connection::connect(source, server)).await??;
        self.tally.connections.fetch_add(1, Ordering::Relaxed);
        let end = end.min(Instant::now() + Duration::from_millis(self.rng.u64(200..3_000)));
        // A refusal ends the connection only if it leaves a body unread.
        let body = if self.rng.bool() { BODY } else { b"" };
        for _ in 0..most {
            if end <= Instant::now() {
                break;
            }
            let expected = self.oracle.expect(source);
            let reply = connection.send("POST", PATH, &[], body);
            let reply = timeout(PATIENCE, reply).await??;
            let status = reply.status;
            let must = self.oracle.must(source, expected);
            let tally = &self.tally;
            tally.requests.fetch_add(1, Ordering::Relaxed);
            match must {
                Must::Admit => tally.had_to_admit.fetch_add(1, Ordering::Relaxed),
                Must::Refuse => tally.had_to_refuse.fetch_add(1, Ordering::Relaxed),
                Must::Either => 0,
            };
            let (seen, wrong) = match (status, must) {
                (200, Must::Refuse) => (&tally.admitted, Some(&tally.wrong_admissions)),
                (200, _) => (&tally.admitted, None),
                (403, Must::Admit) => (&tally.refused, Some(&tally.wrong_refusals)),
                (403, _) => (&tally.refused, None),
                (503, Must::Admit) => (&tally.undecided, Some(&tally.wrong_refusals)),
                (503, _) if source.is_ipv4() && self.oracle.must_decide(expected) => {
                    (&tally.undecided, Some(&tally.wrong_indecision))
                }
                (503, _) => (&tally.undecided, None),
                _ => (&tally.broken, None),
            };
            seen.fetch_add(1, Ordering::Relaxed);
            if let Some(wrong) = wrong {
                wrong.fetch_add(1, Ordering::Relaxed);
                let known = self.oracle.describe(source);
                tally.report(format!("{source}: {status}, but {must:?}; {known}"));
            }
            if reply.header("connection") == Some("close") {
                break;
            }
        }
        Ok(())
    }
}

impl Tally {
    pub(crate) fn wrong(&self) -> u64 {
        let wrong = [
            &self.wrong_admissions,
            &self.wrong_refusals,
            &self.wrong_indecision,
            &self.broken,
        ];
        wrong
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .sum()
    }

    /// Returns the first errors.
    pub(crate) fn details(&self) -> Vec<String> {
        self.details
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn report(&self, detail: String) {
        let mut details = self.details.lock().unwrap_or_else(PoisonError::into_inner);
        if details.len() < MAX_REPORTED {
            details.push(detail);
        }
    }
}

/// Time limit of a request. It is longer than any request waits for a lookup.
const PATIENCE: Duration = Duration::from_secs(10);

const PATH: &str = "/vipps/callbacks/v2/payments/order-1";
const BODY: &[u8] = br#"{"merchantSerialNumber":"123456","orderId":"order-1"}"#;
