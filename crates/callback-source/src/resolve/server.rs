//! One DNS server, and the forms in which a question is put to it.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, join},
    stream::FuturesUnordered,
};
use hickory_resolver::{
    net::{
        DnsError, NetError,
        tcp::TcpClientStream,
        udp::UdpClientStream,
        xfer::{DnsMultiplexer, DnsRequestSender},
    },
    proto::{
        ProtoError,
        op::{DnsRequest, DnsRequestOptions, DnsResponse, Message, Query, ResponseCode},
        rr::{DNSClass, Name, Record},
    },
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};
use tracing::info;

#[cfg(callback_source_simulation)]
use crate::simulation::{Fault, network::Provider, planted};
#[cfg(not(callback_source_simulation))]
use hickory_resolver::net::runtime::TokioRuntimeProvider as Provider;

use super::chain::kind_of;
use crate::{ResolveErrorKind, observe::TARGET};

/// A DNS server, with what was learned about the questions that it answers.
pub(super) struct Server {
    address: SocketAddr,
    tcp_first: bool,
    learned: Mutex<Learned>,
    /// A name was answered in the spelling that it was asked in.
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

    /// Asks in one form after the other, each at most once. The next one is tried as well after some
    /// silence, and at once after a failure, unless a form that is likely to work is under way.
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
                                // Tried again, beside the form that is known to work.
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
                    let believed = believed || planted(Fault::DenialUnconfirmed);
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
                    // Of a server that is silent over UDP it says nothing that there is no TCP.
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

    /// The forms to ask in, in this order.
    fn forms(&self) -> VecDeque<Form> {
        let mut learned = self.learned();
        let usual = self.usual();
        let first = learned.first();
        let mut forms = VecDeque::from(match first.unwrap_or(usual) {
            Form::Full if learned.tcp_is_last() => [Form::Full, Form::Bare, Form::Pair, Form::Tcp],
            // EDNS is not what it is silent to.
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

    /// The form to begin with where no other is needed.
    fn usual(&self) -> Form {
        match self.tcp_first {
            true => Form::Tcp,
            false => Form::Full,
        }
    }

    /// Whether the server has answered for this name in a spelling of any letters, so that a denial is
    /// not about the spelling.
    ///
    /// The two families of a host are asked at the same time, and most hosts lack one: the other's
    /// answer is waited for a moment, which saves a question for each of these denials.
    async fn was_answered(&self, name: &Name) -> bool {
        let answered = async {
            loop {
                // Made before the look, so that an answer in between is not missed.
                let answered = self.answered.notified();
                if self.learned().spelled(name) {
                    return;
                }
                answered.await;
            }
        };
        timeout(OTHER_FAMILY, answered).await.is_ok()
    }

    /// `answered`: with records, and not with a denial.
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
            if learned.told != Some(form) {
                learned.told = Some(form);
                info!(
                    target: TARGET,
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
        // Each change is one assignment, so a panic leaves nothing half done.
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The optional parts of a question.
///
/// Random letter case makes an answer hard to forge. Over UDP, lower case is used only where two answers
/// to two questions agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Over UDP, with EDNS, in random case.
    Full,
    /// Over UDP, without EDNS, in random case.
    Bare,
    /// Over TCP, without EDNS, in lower case.
    Tcp,
    /// Over UDP, without EDNS, in lower case, twice: what both answers hold.
    Pair,
}

impl Form {
    fn ask(
        self,
        server: SocketAddr,
        query: &Query,
    ) -> BoxFuture<'static, (Self, Result<Message, NetError>)> {
        let asked = query.clone();
        let mut options = DnsRequestOptions::default();
        options.use_edns = self == Self::Full;
        options.case_randomization = !self.is_plain();
        let mut query = query.clone();
        if self.is_plain() {
            query.name = query.name.to_lowercase();
        }
        let request = || DnsRequest::from_query(query.clone(), options);
        let response = match self {
            Self::Full => over_udp(server, request(), asked, MOST_SENT_FULL).boxed(),
            Self::Bare => over_udp(server, request(), asked, MOST_SENT).boxed(),
            Self::Tcp => over_tcp(server, request(), asked).boxed(),
            Self::Pair => {
                let one = over_udp(server, request(), asked.clone(), MOST_SENT);
                let other = over_udp(server, request(), asked, MOST_SENT);
                join(one, other)
                    .map(|(one, other)| agreed(one, other))
                    .boxed()
            }
        };
        response.map(move |outcome| (self, outcome)).boxed()
    }

    /// Whether it is in lower case, which every server understands.
    fn is_plain(self) -> bool {
        matches!(self, Self::Tcp | Self::Pair)
    }
}

#[derive(Default)]
struct Learned {
    /// The form to begin with, and until when.
    first_until: Option<(Form, Instant)>,
    /// When the usual form is tried again, where the first is another.
    usual_again_at: Option<Instant>,
    /// The form that the log told of.
    told: Option<Form>,
    /// Until when TCP is tried last.
    tcp_last_until: Option<Instant>,
    /// Names that were answered in random case, and until when that is believed.
    spelled_until: HashMap<Name, Instant>,
}

impl Learned {
    fn first(&self) -> Option<Form> {
        self.first_until
            .filter(|(_, until)| Instant::now() < *until)
            .map(|(form, _)| form)
    }

    fn tcp_is_last(&self) -> bool {
        self.tcp_last_until
            .is_some_and(|until| Instant::now() < until)
    }

    fn spelled(&self, name: &Name) -> bool {
        self.spelled_until
            .get(name)
            .is_some_and(|until| Instant::now() < *until)
    }

    fn spell(&mut self, name: &Name, now: Instant) {
        if self.spelled_until.len() >= MOST_SPELLED {
            self.spelled_until.retain(|_, until| now < *until);
        }
        // Targets of aliases are the servers' choice, so that there may be any number of them.
        if self.spelled_until.len() >= MOST_SPELLED {
            self.spelled_until.clear();
        }
        self.spelled_until.insert(name.clone(), now + SPELLED);
    }
}

/// Outcome of the forms that were tried before.
#[derive(Clone, Copy, Default)]
struct Past {
    /// Trouble over UDP in random case; `None` stands for silence.
    first: Option<Trouble>,
    /// Whether TCP was tried.
    tcp: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Truncated,
    Denied,
    Respelled,
    Failed,
}

impl Past {
    fn explain(self, form: Form) -> &'static str {
        match (self.first, form) {
            (_, Form::Full | Form::Bare) => "the DNS server answers only without EDNS",
            (Some(Trouble::Denied), _) => {
                "the DNS server knows names in lower case only, and denies any other spelling"
            }
            (Some(Trouble::Respelled), _) => {
                "the DNS server changes the case of letters in a question, so it is asked over TCP"
            }
            (None, Form::Tcp) => "the DNS server is silent over UDP, and answers over TCP",
            _ => "the DNS server fails with EDNS and letters in random case, and answers without",
        }
    }
}

/// Of several failures, one that a server sent says more than silence.
pub(super) fn more_telling(before: NetError, after: NetError) -> NetError {
    match before {
        NetError::NoConnections | NetError::Timeout => after,
        before => before,
    }
}

/// RFC 6891, sections 6.2.2 and 7. hickory reads 16, BADVERS, as BADSIG.
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
    if planted(Fault::TruncatedTaken) {
        return false;
    }
    message.truncation
}

/// Tests for NXDOMAIN and "no such record".
pub(super) fn is_denial(error: &NetError) -> bool {
    let kind = kind_of(error);
    kind == ResolveErrorKind::NxDomain || kind == ResolveErrorKind::NoData
}

async fn over_udp(
    server: SocketAddr,
    request: DnsRequest,
    asked: Query,
    most_sent: u8,
) -> Result<Message, NetError> {
    let mut socket = UdpClientStream::builder(server, Provider::default())
        .with_timeout(Some(TIME_LIMIT))
        .with_max_retries(most_sent)
        .build();
    let response = socket.send_message(request).next().await;
    checked(response.unwrap_or(Err(NetError::Timeout))?, &asked)
}

/// Opens a connection for each question: one that is kept can die unnoticed, and then costs a question
/// its time limit.
async fn over_tcp(
    server: SocketAddr,
    request: DnsRequest,
    asked: Query,
) -> Result<Message, NetError> {
    let provider = Provider::default();
    let (connecting, sender) = TcpClientStream::new(server, None, Some(TIME_LIMIT), provider);
    let mut connection = DnsMultiplexer::new(connecting.await?, sender).with_timeout(TIME_LIMIT);
    let mut response = connection.send_message(request);
    let response = loop {
        tokio::select! {
            biased;
            response = response.next() => break response,
            driven = connection.next() => if !matches!(driven, Some(Ok(()))) {
                break response.next().await;
            }
        }
    };
    checked(response.unwrap_or(Err(NetError::Timeout))?, &asked)
}

/// Checks what hickory leaves to its pool, and the question, which it ignores over TCP.
fn checked(response: DnsResponse, asked: &Query) -> Result<Message, NetError> {
    let code = response.response_code;
    let is_error = !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain);
    if is_error && response.queries.is_empty() {
        return Err(DnsError::ResponseCode(code).into());
    }
    if response.queries.as_slice() != std::slice::from_ref(asked) {
        return Err(ProtoError::from("the response is to another question").into());
    }
    let foreign = |record: &&Record| record.dns_class != DNSClass::IN;
    if let Some(record) = response.all_sections().find(foreign) {
        return Err(NetError::ForeignClassRecord {
            record_name: record.name.clone(),
            record_class: record.dns_class,
            record_type: record.record_type(),
        });
    }
    let message = DnsError::from_response(response)?.into_message();
    match is_error {
        true => Err(DnsError::ResponseCode(code).into()),
        false => Ok(message),
    }
}

/// Joins two answers to a question in lower case: a forger has to guess both.
fn agreed(
    one: Result<Message, NetError>,
    other: Result<Message, NetError>,
) -> Result<Message, NetError> {
    match (one, other) {
        (Ok(mut one), Ok(other)) if one.response_code == other.response_code => {
            let same = |record: &Record, other: &Record| {
                record.name == other.name && record.data == other.data
            };
            one.answers
                .retain(|record| other.answers.iter().any(|other| same(record, other)));
            one.metadata.truncation |= other.truncation;
            Ok(one)
        }
        (Err(one), Err(other)) if kind_of(&one) == kind_of(&other) => Err(one),
        (Err(error), _) | (_, Err(error)) if !is_denial(&error) => Err(error),
        _ => Err(ProtoError::from("two answers to the same question differ").into()),
    }
}

/// In all forms together.
const TIME_LIMIT: Duration = Duration::from_secs(2);

/// Silence after which the next form is tried as well: all four are under way after 600 ms, so that one
/// of them answers before an on-demand refresh ends. An error without its question looks like silence,
/// because hickory takes it for a forgery.
const PATIENCE: Duration = Duration::from_millis(200);
/// The same for a form that worked before: after two packets that were lost.
const PATIENCE_LIKELY: Duration = Duration::from_millis(500);

/// Packets of one question in full form.
const MOST_SENT_FULL: u8 = 3;
/// Packets of one question in other forms.
const MOST_SENT: u8 = 2;

/// Time for which a form is tried first after it worked. Longer than a TTL: a form that is forgotten
/// between two questions costs each of them the time to find it.
const REMEMBERED: Duration = Duration::from_secs(2 * 3600);
/// Time after which a form that did not work is tried again.
const BEFORE_ANOTHER_TRY: Duration = Duration::from_secs(300);

/// Time for which an answer shows that a server knows a name in any spelling.
const SPELLED: Duration = Duration::from_secs(3600);
const MOST_SPELLED: usize = 256;

/// Time for which a denial waits for the answer of the host's other family.
const OTHER_FAMILY: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::{
        op::{Message, OpCode},
        rr::{Name, RData, Record, RecordType, rdata::A},
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_form_that_a_server_needs_is_the_first_for_two_hours_after_it_worked() {
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
    fn a_denial_and_a_truncated_answer_that_tcp_repeats_need_no_other_form() {
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
    async fn tcp_that_does_not_work_is_tried_last_for_five_minutes() {
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

    #[test]
    fn names_that_were_answered_take_bounded_memory() {
        let mut learned = Learned::default();
        let now = Instant::now();
        for number in 0..10 * MOST_SPELLED {
            let name = Name::from_ascii(format!("x{number}.example.")).unwrap();
            learned.spell(&name, now);
            assert!(learned.spelled(&name));
            assert!(learned.spelled_until.len() <= MOST_SPELLED);
        }
    }

    #[test]
    fn two_answers_in_lower_case_count_as_far_as_they_agree() {
        let both = agreed(Ok(message(&[1, 2])), Ok(message(&[3, 2]))).unwrap();
        assert_eq!(both.answers, message(&[2]).answers);
        let neither = agreed(Ok(message(&[1])), Ok(message(&[2]))).unwrap();
        assert!(neither.answers.is_empty());

        let denied = || Err(denial(ResponseCode::NXDomain));
        assert!(is_denial(&agreed(denied(), denied()).unwrap_err()));
        for (one, other) in [
            (denied(), Ok(message(&[1]))),
            (Ok(message(&[1])), denied()),
            (denied(), Err(denial(ResponseCode::NoError))),
            (denied(), Err(NetError::Timeout)),
            (Err(NetError::Timeout), Ok(message(&[1]))),
            (Ok(message(&[1])), Err(NetError::Timeout)),
        ] {
            assert!(!is_denial(&agreed(one, other).unwrap_err()));
        }
    }

    #[test]
    fn a_response_to_another_question_is_not_taken() {
        let asked = query();
        let response = |queries: Vec<Query>, code| {
            let mut message = message(&[1]);
            message.queries = queries;
            message.metadata.response_code = code;
            checked(DnsResponse::from_message(message).unwrap(), &asked)
        };
        let other = Query::query(Name::root(), RecordType::A);
        assert!(response(vec![query()], ResponseCode::NoError).is_ok());
        for queries in [vec![], vec![other.clone()], vec![query(), other]] {
            for code in [ResponseCode::NoError, ResponseCode::NXDomain] {
                let error = response(queries.clone(), code).unwrap_err();
                assert_eq!(kind_of(&error), ResolveErrorKind::Malformed);
            }
        }
        // An error may be as short as twelve bytes.
        let error = response(vec![], ResponseCode::FormErr).unwrap_err();
        assert_eq!(kind_of(&error), ResolveErrorKind::ErrorCode);
        let unheard_of = response(vec![query()], ResponseCode::Unknown(12)).unwrap_err();
        assert_eq!(kind_of(&unheard_of), ResolveErrorKind::ErrorCode);
    }

    fn query() -> Query {
        Query::query(Name::from_ascii("a.example.").unwrap(), RecordType::A)
    }

    fn message(last: &[u8]) -> Message {
        let mut message = Message::response(1, OpCode::Query);
        message.queries.push(query());
        for last in last {
            let data = RData::A(A::new(192, 0, 2, *last));
            message.add_answer(Record::from_rdata(query().name, 60, data));
        }
        message
    }

    fn denial(code: ResponseCode) -> NetError {
        hickory_resolver::net::NoRecords::new(Box::new(query()), code).into()
    }
}
