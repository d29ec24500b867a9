//! A resolver that follows a script, for tests with paused time.

use std::{
    collections::HashMap,
    future::pending,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use callback_source::{Answer, Family, Question, Resolve, ResolveError, ResolveErrorKind};
use tokio::time::{Instant, sleep};

/// Answers as it was told last; what it was not told of has no data.
///
/// A handle: clones follow the same script.
#[derive(Clone, Debug, Default)]
pub struct Script(Arc<Mutex<State>>);

/// What comes of a question.
#[derive(Clone, Debug)]
pub enum Line {
    /// These addresses for this long.
    Addresses(Vec<IpAddr>, Duration),
    /// A failure or a denial.
    Fails(ResolveErrorKind),
    /// Nothing, ever.
    Never,
    /// A panic in the call.
    Panics,
    /// A panic in the future.
    PanicsLater,
    /// Another line, this much later.
    After(Duration, Box<Self>),
}

#[derive(Debug, Default)]
struct State {
    lines: HashMap<Question, Line>,
    asked: Vec<(Question, Instant)>,
}

impl Script {
    /// Gives a host an address of each of these, at a TTL in seconds; IPv4 only.
    pub fn set(&self, host: &str, ttl: u64, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| {
            let address = address.parse();
            address.expect("the test names an address")
        });
        let line = Line::Addresses(addresses.collect(), Duration::from_secs(ttl));
        self.line(host, Family::V4, line);
    }

    /// Says what comes of a question from now on.
    pub fn line(&self, host: &str, family: Family, line: Line) {
        self.lock().lines.insert(question(host, family), line);
    }

    /// When a question was asked.
    #[must_use]
    pub fn asked(&self, host: &str, family: Family) -> Vec<Instant> {
        let question = question(host, family);
        let state = self.lock();
        let asked = state.asked.iter().filter(|(asked, _)| *asked == question);
        asked.map(|(_, at)| *at).collect()
    }

    /// How many questions were asked.
    #[must_use]
    pub fn total(&self) -> usize {
        self.lock().asked.len()
    }

    /// How many holders the script has; a list that is gone holds it no more.
    #[must_use]
    pub fn holders(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resolve for Script {
    fn resolve(
        &self,
        question: Question,
    ) -> impl Future<Output = Result<Answer, ResolveError>> + Send {
        let line = {
            let mut state = self.lock();
            state.asked.push((question.clone(), Instant::now()));
            state.lines.get(&question).cloned()
        };
        let line = line.unwrap_or(Line::Fails(ResolveErrorKind::NoData));
        assert!(!matches!(line, Line::Panics), "as the script says");
        async move {
            let mut line = line;
            loop {
                line = match line {
                    Line::Addresses(addresses, ttl) => return Ok(Answer::new(addresses, ttl)),
                    Line::Fails(kind) => return Err(ResolveError::new(kind)),
                    Line::Never => pending().await,
                    Line::Panics | Line::PanicsLater => panic!("as the script says, later"),
                    Line::After(delay, then) => {
                        sleep(delay).await;
                        *then
                    }
                }
            }
        }
    }
}

fn question(host: &str, family: Family) -> Question {
    Question {
        host: host.parse().expect("the test gives a host name"),
        family,
    }
}
