//! A single DNS server, the order of its query forms, and the memory of the forms that worked.

mod exchange;
mod form;
mod learned;

use std::collections::VecDeque;
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use hickory_resolver::{
    net::{DnsError, NetError},
    proto::{
        op::{Message, Query, ResponseCode},
        rr::Name,
    },
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};
use tracing::info;

use super::chain::kind_of;
use crate::{LOG_TARGET, ResolveErrorKind};
use form::Form;
use learned::{Learned, Past, Trouble};

/// A DNS server, with the query forms that it is known to answer.
pub(super) struct Server {
    address: SocketAddr,
    tcp_first: bool,
    learned: Mutex<Learned>,
    /// Wakes waiting lookups when the server has answered a query in random case.
    answered: Notify,
}

impl Server {
    pub(super) fn new(address: SocketAddr, tcp_first: bool) -> Self {
        Self {
            address,
            tcp_first,
            learned: Mutex::default(),
            answered: Notify::new(),
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends the query in one form after another, in each form at most once.
    ///
    /// The next form is sent after 200 ms of silence, or after 500 ms if the previous form is likely to work. After an
    /// I/O error or a failure over TCP, the next form is sent immediately. The same applies after any other failure,
    /// unless a form that is likely to work is still in flight.
    pub(super) async fn ask(self: Arc<Self>, query: Query) -> Result<Message, NetError> {
        let give_up_at = Instant::now() + TIME_LIMIT;
        let mut next_at = Instant::now();
        let mut likely = self.learned().first();
        let mut waiting = self.forms();
        let mut asked = FuturesUnordered::new();
        let mut under_way = Vec::new();
        let mut past = Past::default();
        let mut failure = NetError::Timeout;
        while !(waiting.is_empty() && asked.is_empty()) {
            let (form, outcome) = tokio::select! {
                biased;
                Some(asked) = asked.next() => asked,
                () = sleep_until(next_at), if !waiting.is_empty() => {
                    if let Some(form) = waiting.pop_front() {
                        asked.push(form.ask(self.address, &query));
                        under_way.push(form);
                        past.tcp |= form == Form::Tcp;
                        next_at = Instant::now()
                            + match likely == Some(form) {
                                true => PATIENCE_LIKELY,
                                // The usual form is tried again, in parallel with the form that is known to work.
                                false if form == Form::Full && waiting.front() == likely.as_ref() => {
                                    Duration::ZERO
                                }
                                false => PATIENCE,
                            };
                    }
                    continue;
                }
                () = sleep_until(give_up_at) => break,
            };
            under_way.retain(|other| *other != form);
            let plain_under_way = under_way.iter().any(|form| form.is_plain());
            let unreachable = matches!(outcome, Err(NetError::Io(_)));
            match outcome {
                Ok(message) if is_truncated(&message) => {
                    if !form.is_plain() {
                        self.spelled(query.name());
                    }
                    past.first = Some(Trouble::Truncated);
                    failure = NetError::Truncated;
                    waiting.retain(|waiting| *waiting == Form::Tcp);
                }
                Ok(message) => {
                    self.learn(query.name(), form, past, true);
                    return Ok(message);
                }
                Err(error) if is_denial(&error) => {
                    let believed = match form.is_plain() || plain_under_way {
                        true => form.is_plain() || self.learned().spelled(query.name()),
                        false => self.was_answered(query.name()).await,
                    };
                    #[cfg(callback_source_simulation)]
                    let believed = believed
                        || crate::simulation::planted(crate::simulation::Fault::DenialUnconfirmed);
                    if believed {
                        self.learn(query.name(), form, past, false);
                        return Err(error);
                    }
                    past.first = Some(Trouble::Denied);
                    waiting.retain(|form| form.is_plain());
                }
                Err(error) => {
                    let bare = waiting.iter().position(|form| *form == Form::Bare);
                    if let Some(bare) = bare.filter(|_| form == Form::Full) {
                        waiting.remove(bare);
                        if refuses_edns(&error) {
                            waiting.push_front(Form::Bare);
                        }
                    }
                    match &error {
                        _ if form == Form::Full && refuses_edns(&error) => {
                            likely = Some(Form::Bare);
                        }
                        NetError::Dns(_) if form.is_plain() => {
                            waiting.retain(|form| !form.is_plain());
                        }
                        NetError::Dns(_) if self.learned().spelled(query.name()) => waiting.clear(),
                        _ => {}
                    }
                    past.first.get_or_insert(match error {
                        NetError::QueryCaseMismatch => Trouble::Respelled,
                        _ => Trouble::Failed,
                    });
                    self.forget(form);
                    // A closed TCP port does not explain why a server is silent over UDP.
                    if form != Form::Tcp || matches!(error, NetError::Dns(_) | NetError::Proto(_)) {
                        failure = more_telling(failure, error);
                    }
                }
            }
            let may_work = |form: &Form| form.is_plain() || Some(*form) == likely;
            if unreachable || form == Form::Tcp || !under_way.iter().any(may_work) {
                next_at = Instant::now();
            }
        }
        self.learned().first_until = None;
        Err(failure)
    }

    /// Returns the forms to try, in order.
    fn forms(&self) -> VecDeque<Form> {
        let mut learned = self.learned();
        let usual = self.usual();
        let first = learned.first();
        let mut forms = VecDeque::from(match first.unwrap_or(usual) {
            Form::Full if learned.tcp_is_last() => [Form::Full, Form::Bare, Form::Pair, Form::Tcp],
            // The server has answered a query with EDNS before, so EDNS is not the cause of silence.
            Form::Full if first.is_some() => [Form::Full, Form::Tcp, Form::Pair, Form::Bare],
            Form::Full => [Form::Full, Form::Bare, Form::Tcp, Form::Pair],
            Form::Bare => [Form::Bare, Form::Full, Form::Tcp, Form::Pair],
            Form::Tcp => [Form::Tcp, Form::Full, Form::Bare, Form::Pair],
            Form::Pair => [Form::Pair, Form::Full, Form::Bare, Form::Tcp],
        });
        let now = Instant::now();
        if first.is_some_and(|first| first != usual) && learned.usual_again_at <= Some(now) {
            learned.usual_again_at = Some(now + BEFORE_ANOTHER_TRY);
            forms.retain(|form| *form != usual);
            forms.push_front(usual);
        }
        forms
    }

    /// Returns the form to try first if no other form is known to be needed.
    fn usual(&self) -> Form {
        match self.tcp_first {
            true => Form::Tcp,
            false => Form::Full,
        }
    }

    /// Returns true if the server has answered a query for this name in random case. Random case is then not the cause
    /// of a denial.
    ///
    /// Both families of a host are queried at the same time, and most hosts have addresses of only one family. Waiting
    /// up to 100 ms for the answer of that family saves one query for each denial of the other family.
    async fn was_answered(&self, name: &Name) -> bool {
        let answered = async {
            loop {
                // Created before the check, so that an answer between the check and the wait is not missed.
                let answered = self.answered.notified();
                if self.learned().spelled(name) {
                    return;
                }
                answered.await;
            }
        };
        timeout(OTHER_FAMILY, answered).await.is_ok()
    }

    /// Records the form that worked. `answered` is false for a denial.
    fn learn(&self, name: &Name, form: Form, past: Past, answered: bool) {
        let now = Instant::now();
        if answered && !form.is_plain() {
            self.spelled(name);
        }
        let mut learned = self.learned();
        match form {
            Form::Tcp => learned.tcp_last_until = None,
            Form::Pair if past.tcp => learned.tcp_last_until = Some(now + BEFORE_ANOTHER_TRY),
            _ => {}
        }
        let needed = match past.first {
            Some(Trouble::Truncated) => false,
            Some(Trouble::Denied) => answered,
            Some(Trouble::Respelled | Trouble::Failed) | None => true,
        };
        if form == self.usual() || learned.first() == Some(form) {
            learned.first_until = Some((form, now + REMEMBERED));
        } else if needed {
            learned.first_until = Some((form, now + REMEMBERED));
            learned.usual_again_at = Some(now + BEFORE_ANOTHER_TRY);
            if learned.logged != Some(form) {
                learned.logged = Some(form);
                info!(
                    target: LOG_TARGET,
                    server = %self.address,
                    "{}",
                    past.explain(form),
                );
            }
        }
    }

    fn spelled(&self, name: &Name) {
        self.learned().spell(name, Instant::now());
        self.answered.notify_waiters();
    }

    fn forget(&self, form: Form) {
        let mut learned = self.learned();
        if learned.first() == Some(form) {
            learned.first_until = None;
        }
    }

    fn learned(&self) -> MutexGuard<'_, Learned> {
        // The fields do not depend on each other, so a panic leaves the state usable.
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the more specific of two failures: the earlier failure, unless that failure is mere silence.
pub(super) fn more_telling(before: NetError, after: NetError) -> NetError {
    match before {
        NetError::NoConnections | NetError::Timeout => after,
        before => before,
    }
}

/// Returns true for the response codes by which a server refuses EDNS (RFC 6891, sections 6.2.2 and 7). hickory parses
/// code 16 (BADVERS) as BADSIG.
fn refuses_edns(error: &NetError) -> bool {
    let NetError::Dns(DnsError::ResponseCode(code)) = error else {
        return false;
    };
    matches!(
        code,
        ResponseCode::FormErr | ResponseCode::NotImp | ResponseCode::BADVERS | ResponseCode::BADSIG
    )
}

fn is_truncated(message: &Message) -> bool {
    #[cfg(callback_source_simulation)]
    if crate::simulation::planted(crate::simulation::Fault::TruncatedTaken) {
        return false;
    }
    message.truncation
}

/// Returns true for NXDOMAIN and "no such record".
pub(super) fn is_denial(error: &NetError) -> bool {
    let kind = kind_of(error);
    kind == ResolveErrorKind::NxDomain || kind == ResolveErrorKind::NoData
}

/// Time limit for one server, which includes all forms.
const TIME_LIMIT: Duration = Duration::from_secs(2);

/// Duration of silence after which the next form is tried. All four forms are in flight after 600 ms, so one of them
/// can be answered before an on-demand refresh ends (1 s). Over UDP, an error response without its question has the
/// same effect as silence, because hickory treats such a response as a forgery.
const PATIENCE: Duration = Duration::from_millis(200);
/// Duration of silence after which the next form is tried, if the previous form worked before. The duration is long
/// enough for one lost packet, since hickory repeats a query over UDP after 333 ms.
const PATIENCE_LIKELY: Duration = Duration::from_millis(500);

/// Time for which a form is tried first after it worked. This time is longer than the default maximum TTL (1 h), since
/// each lookup would otherwise have to find the form again.
const REMEMBERED: Duration = Duration::from_secs(2 * 3600);
/// Time after which a form that failed is tried again.
const BEFORE_ANOTHER_TRY: Duration = Duration::from_secs(300);

/// Time for which a denial waits for the answer of the host's other family.
const OTHER_FAMILY: Duration = Duration::from_millis(100);

#[cfg(test)]
mod test_messages {
    use hickory_resolver::{
        net::{NetError, NoRecords},
        proto::{
            op::{Message, OpCode, Query, ResponseCode},
            rr::{Name, RData, Record, RecordType, rdata::A},
        },
    };

    pub(super) fn query() -> Query {
        Query::query(Name::from_ascii("a.example.").unwrap(), RecordType::A)
    }

    pub(super) fn message(last: &[u8]) -> Message {
        let mut message = Message::response(1, OpCode::Query);
        message.queries.push(query());
        for last in last {
            let data = RData::A(A::new(192, 0, 2, *last));
            message.add_answer(Record::from_rdata(query().name, 60, data));
        }
        message
    }

    pub(super) fn denial(code: ResponseCode) -> NetError {
        NoRecords::new(Box::new(query()), code).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_form_stays_first_for_two_hours_after_it_worked() {
        let server = Server::new(([192, 0, 2, 1], 53).into(), false);
        let failed = Past {
            first: Some(Trouble::Failed),
            tcp: true,
        };
        for form in [Form::Bare, Form::Tcp, Form::Pair] {
            server.learn(&Name::root(), form, failed, true);
            for _ in 0..2 {
                tokio::time::advance(REMEMBERED - Duration::from_millis(1)).await;
                assert_eq!(server.learned().first(), Some(form));
                server.learn(&Name::root(), form, Past::default(), true);
            }
            tokio::time::advance(REMEMBERED).await;
            assert_eq!(
                server.forms(),
                [Form::Full, Form::Bare, Form::Tcp, Form::Pair]
            );
            server.learned().tcp_last_until = None;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_question_in_five_minutes_tries_the_usual_form_again() {
        let server = Server::new(([192, 0, 2, 1], 53).into(), false);
        for form in [Form::Bare, Form::Tcp, Form::Pair] {
            server.learn(&Name::root(), form, Past::default(), true);
            for _ in 0..3 {
                assert_eq!(server.forms()[0], form);
                tokio::time::advance(BEFORE_ANOTHER_TRY).await;
                let forms = server.forms();
                assert_eq!([forms[0], forms[1]], [Form::Full, form]);
                assert_eq!(forms.len(), 4);
            }
            server.learn(&Name::root(), Form::Full, Past::default(), true);
            assert_eq!(server.forms()[0], Form::Full);
        }
    }

    #[test]
    fn a_denial_or_truncated_answer_repeated_over_tcp_needs_no_other_form() {
        let server = Server::new(([192, 0, 2, 1], 53).into(), false);
        let past = |trouble| Past {
            first: Some(trouble),
            tcp: true,
        };
        server.learn(&Name::root(), Form::Tcp, past(Trouble::Denied), false);
        assert_eq!(server.forms()[0], Form::Full);
        server.learn(&Name::root(), Form::Tcp, past(Trouble::Truncated), true);
        assert_eq!(server.forms()[0], Form::Full);
    }

    #[tokio::test(start_paused = true)]
    async fn failed_tcp_is_tried_last_for_five_minutes() {
        let server = Server::new(([192, 0, 2, 1], 53).into(), false);
        let denied = Past {
            first: Some(Trouble::Denied),
            tcp: true,
        };
        server.learn(&Name::root(), Form::Pair, denied, false);
        assert_eq!(
            server.forms(),
            [Form::Full, Form::Bare, Form::Pair, Form::Tcp]
        );
        tokio::time::advance(BEFORE_ANOTHER_TRY).await;
        assert_eq!(
            server.forms(),
            [Form::Full, Form::Bare, Form::Tcp, Form::Pair]
        );
    }
}
