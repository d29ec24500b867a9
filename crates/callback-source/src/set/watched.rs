//! Rule 8: hosts that are looked up but never admitted.

use std::{net::IpAddr, sync::Arc, time::Instant};

use super::{AllowSet, Notice};
use crate::{
    Answer, HostName, Question, Rejection, ResolveError,
    verdict::WatchedServer,
    vipps::{self, Environment},
};

/// Hosts that are looked up but never admitted.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    /// A separate set, so that no answer of a watched host can be evidence for an admitted host. The verdicts of this
    /// set are not used.
    hosts: AllowSet,
    /// The environment that all admitted hosts of the provider share, if there is one.
    admitted: Option<&'static str>,
}

impl AllowSet {
    /// Replaces the watched hosts. Hosts that stay keep their answers. A host that is admitted is not watched.
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    /// use callback_source::{AllowSet, Answer, Question, RejectionKind, set::Rules};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let now = Instant::now();
    /// let mut set = AllowSet::new(Rules::default(), ["callback.example.com".parse()?], &[], now)?;
    /// set.watch(["sandbox.example.com".parse()?], now);
    ///
    /// let answer = |address: &str| Answer::new([address.parse().unwrap()], Duration::from_secs(60));
    /// let mut questions = set.questions().map(|(question, _)| question);
    /// let (callback, _) = (questions.next().unwrap(), drop(questions));
    /// let (sandbox, _) = set.watched_questions().next().unwrap();
    /// set.apply(&sandbox, Ok(answer("20.0.0.9")), now);
    /// let kind = |set: &AllowSet| set.verdict("20.0.0.9".parse().unwrap(), now).rejection().unwrap().kind();
    /// assert_eq!(kind(&set), RejectionKind::Unresolved);
    /// set.apply(&callback, Ok(answer("20.0.0.1")), now);
    /// assert_eq!(kind(&set), RejectionKind::WrongEnvironment);
    /// # Ok(())
    /// # }
    /// ```
    pub fn watch(&mut self, hosts: impl IntoIterator<Item = HostName>, now: Instant) {
        let hosts = hosts.into_iter();
        let hosts: Vec<_> = hosts.filter(|host| !self.admits_host(host)).collect();
        if hosts.is_empty() {
            self.watched = None;
            return;
        }
        let admitted = self.hosts().filter_map(Environment::of_host);
        let admitted = vipps::only_environment(admitted).map(Environment::as_str);
        let mut watched = match self.watched.take() {
            Some(watched) => Arc::unwrap_or_clone(watched).hosts,
            None => Self::new(self.rules.clone(), [], &[], now).expect("no networks"),
        };
        let _ = watched.replace_hosts(hosts, now);
        self.watched = Some(Arc::new(Watched {
            hosts: watched,
            admitted,
        }));
    }

    /// Returns the watched hosts.
    pub fn watched(&self) -> impl Iterator<Item = &HostName> {
        let watched = self.watched.iter();
        watched.flat_map(|watched| watched.hosts.hosts.iter().map(|host| &host.name))
    }

    /// Returns every question about a watched host, with the time at which it is due. These questions are asked only
    /// while unlisted peers call.
    pub fn watched_questions(&self) -> impl Iterator<Item = (Question, Instant)> {
        let watched = self.watched.iter();
        watched.flat_map(|watched| {
            let set = &watched.hosts;
            set.hosts.iter().flat_map(|host| {
                let families = set.rules.families();
                families.map(|family| (host.question(family), host.state(family).due_at))
            })
        })
    }

    /// Returns whether a question is about a watched host.
    pub(crate) fn is_watched(&self, question: &Question) -> bool {
        self.watched().any(|host| *host == question.host)
    }

    /// Returns whether every question about a watched host has had an outcome.
    pub(crate) fn is_watched_attempted(&self) -> bool {
        let mut questions = self.watched_questions();
        questions.all(|(question, _)| !self.is_unasked(&question))
    }

    /// Returns the set of the watched hosts.
    pub(super) fn watched_set(&self) -> Option<&Self> {
        self.watched.as_ref().map(|watched| &watched.hosts)
    }

    /// Returns the watched server that has the address of a rejected peer. `None` if no watched host has such a server.
    pub(crate) fn watched_server(&self, peer: IpAddr, now: Instant) -> Option<WatchedServer> {
        let watched = self.watched.as_ref()?;
        let admission = watched.hosts.index.find(peer, now)?;
        Some(WatchedServer {
            host: admission.host.clone(),
            environment: Environment::of_host(&admission.host).map(Environment::as_str),
            admitted: watched.admitted,
        })
    }

    /// Returns the rejection of an unlisted peer that is a server of a watched host.
    pub(super) fn wrong_environment(&self, peer: IpAddr, now: Instant) -> Option<Rejection> {
        let server = self.watched_server(peer, now)?;
        Some(Rejection::wrong_environment(peer, server))
    }

    pub(super) fn apply_watched(
        &mut self,
        question: &Question,
        outcome: Result<Answer, ResolveError>,
        now: Instant,
    ) -> Vec<Notice> {
        let Some(watched) = &mut self.watched else {
            return Vec::new();
        };
        let notices = Arc::make_mut(watched).hosts.apply(question, outcome, now);
        // A failure of a watched host does not affect the list, so only changes are reported.
        let changes = notices.into_iter().filter_map(|notice| match notice {
            Notice::Changed(change) => Some(Notice::WatchedChanged(change)),
            _ => None,
        });
        changes.collect()
    }

    pub(super) fn watched_set_mut(&mut self) -> Option<&mut Self> {
        let watched = self.watched.as_mut()?;
        Some(&mut Arc::make_mut(watched).hosts)
    }

    /// Returns an admission for the address of a watched host if the fault `WatchedAdmitted` is planted.
    #[cfg(callback_source_simulation)]
    pub(super) fn planted_admission(&self, peer: IpAddr, now: Instant) -> Option<crate::Allowed> {
        if !crate::simulation::planted(crate::simulation::Fault::WatchedAdmitted) {
            return None;
        }
        let server = self.watched_server(peer, now)?;
        Some(crate::Allowed {
            peer,
            source: crate::verdict::Source::Host(server.host),
            freshness: crate::Freshness::Fresh,
            since: now,
        })
    }

    fn admits_host(&self, host: &HostName) -> bool {
        self.hosts().any(|admitted| admitted == host)
    }
}
