//! A resolver that follows a script.

use std::{
    collections::HashMap,
    future::{Future, pending},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use callback_source::{Answer, Family, Question, Resolve, ResolveError, ResolveErrorKind};
use tokio::time::{Instant, sleep};

/// A resolver whose outcomes the test sets. A question without an outcome gets "no data".
///
/// It opens no socket, so it works while tokio's time is paused. Clones share one script: give one clone to the list,
/// and keep another to change the outcomes.
///
/// # Example
///
/// A lookup that takes 300 ms:
///
/// ```
/// use std::{net::IpAddr, time::Duration};
/// use callback_source::{AllowList, Family};
/// use callback_source_testkit::{Outcome, ScriptedResolver};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let resolver = ScriptedResolver::default();
/// let server: IpAddr = "20.100.0.1".parse()?;
/// let answer = Outcome::Answer(vec![server], Duration::from_secs(60));
/// let late = Outcome::After(Duration::from_millis(300), Box::new(answer));
/// resolver.set_outcome("callback-1.example", Family::V4, late);
///
/// let list = AllowList::builder()
///     .host("callback-1.example".parse()?)
///     .spawn(resolver.clone());
/// assert!(!list.verdict(server).is_allowed());
/// list.ready().await;
/// assert!(list.verdict(server).is_allowed());
/// assert_eq!(resolver.asked_at("callback-1.example", Family::V4).len(), 1);
/// # Ok(())
/// # }
/// ```
///
/// # Panics
///
/// Every method that takes a host panics if the text is not a valid host name.
#[derive(Clone, Debug, Default)]
pub struct ScriptedResolver(Arc<Mutex<State>>);

/// The outcome of a lookup.
///
/// See [`ScriptedResolver`] for an example.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// An answer with these addresses and this TTL.
    Answer(Vec<IpAddr>, Duration),
    /// A failed lookup, or a negative answer without a TTL.
    Failure(ResolveErrorKind),
    /// A lookup that never ends.
    Pending,
    /// A panic in the call of [`resolve`](Resolve::resolve) itself.
    Panic,
    /// A panic in the future that [`resolve`](Resolve::resolve) returns.
    PanicInFuture,
    /// Another outcome after a delay.
    After(Duration, Box<Self>),
}

#[derive(Debug, Default)]
struct State {
    outcomes: HashMap<Question, Outcome>,
    asked: Vec<(Question, Instant)>,
}

impl ScriptedResolver {
    /// Sets the answer to the A question of a host: these addresses, with a TTL in seconds.
    ///
    /// # Panics
    ///
    /// If a text is not a valid address.
    pub fn set(&self, host: &str, ttl: u64, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| {
            let address = address.parse();
            address.expect("the test gives a valid address")
        });
        let answer = Outcome::Answer(addresses.collect(), Duration::from_secs(ttl));
        self.set_outcome(host, Family::V4, answer);
    }

    /// Sets the outcome of a question for all later lookups.
    pub fn set_outcome(&self, host: &str, family: Family, outcome: Outcome) {
        let question = question(host, family);
        self.lock().outcomes.insert(question, outcome);
    }

    /// The times at which a question was asked, oldest first.
    #[must_use]
    pub fn asked_at(&self, host: &str, family: Family) -> Vec<Instant> {
        let question = question(host, family);
        let state = self.lock();
        let asked = state.asked.iter().filter(|(asked, _)| *asked == question);
        asked.map(|(_, at)| *at).collect()
    }

    /// The number of lookups so far, of all questions.
    #[must_use]
    pub fn total(&self) -> usize {
        self.lock().asked.len()
    }

    /// The number of clones that are still alive, including this one. A list drops its clone when its refresher ends.
    #[must_use]
    pub fn handles(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resolve for ScriptedResolver {
    fn resolve(
        &self,
        question: Question,
    ) -> impl Future<Output = Result<Answer, ResolveError>> + Send {
        let outcome = {
            let mut state = self.lock();
            state.asked.push((question.clone(), Instant::now()));
            state.outcomes.get(&question).cloned()
        };
        let outcome = outcome.unwrap_or(Outcome::Failure(ResolveErrorKind::NoData));
        assert!(!matches!(outcome, Outcome::Panic), "scripted panic");
        async move {
            let mut outcome = outcome;
            loop {
                outcome = match outcome {
                    Outcome::Answer(addresses, ttl) => return Ok(Answer::new(addresses, ttl)),
                    Outcome::Failure(kind) => return Err(ResolveError::new(kind)),
                    Outcome::Pending => pending().await,
                    Outcome::Panic | Outcome::PanicInFuture => {
                        panic!("scripted panic in the future")
                    }
                    Outcome::After(delay, then) => {
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
        host: host.parse().expect("the test gives a valid host name"),
        family,
    }
}
