//! What a server's earlier answers say about the form of the next question.

use std::{collections::HashMap, time::Duration};

use hickory_resolver::proto::rr::Name;
use tokio::time::Instant;

use super::form::Form;

#[derive(Default)]
pub(super) struct Learned {
    /// The form to begin with, and until when.
    pub(super) first_until: Option<(Form, Instant)>,
    /// When the usual form is tried again, where the first is another.
    pub(super) usual_again_at: Option<Instant>,
    /// The form that the log told of.
    pub(super) told: Option<Form>,
    /// Until when TCP is tried last.
    pub(super) tcp_last_until: Option<Instant>,
    /// Names that were answered in random case, and until when that is believed.
    pub(super) spelled_until: HashMap<Name, Instant>,
}

impl Learned {
    pub(super) fn first(&self) -> Option<Form> {
        self.first_until
            .filter(|(_, until)| Instant::now() < *until)
            .map(|(form, _)| form)
    }

    pub(super) fn tcp_is_last(&self) -> bool {
        self.tcp_last_until
            .is_some_and(|until| Instant::now() < until)
    }

    pub(super) fn spelled(&self, name: &Name) -> bool {
        self.spelled_until
            .get(name)
            .is_some_and(|until| Instant::now() < *until)
    }

    pub(super) fn spell(&mut self, name: &Name, now: Instant) {
        if self.spelled_until.len() >= MAX_SPELLED {
            self.spelled_until.retain(|_, until| now < *until);
        }
        // Targets of aliases are the servers' choice, so that there may be any number of them.
        if self.spelled_until.len() >= MAX_SPELLED {
            self.spelled_until.clear();
        }
        self.spelled_until.insert(name.clone(), now + SPELLED);
    }
}

/// Outcome of the forms that were tried before.
#[derive(Clone, Copy, Default)]
pub(super) struct Past {
    /// Trouble over UDP in random case; `None` stands for silence.
    pub(super) first: Option<Trouble>,
    /// Whether TCP was tried.
    pub(super) tcp: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    Truncated,
    Denied,
    Respelled,
    Failed,
}

impl Past {
    pub(super) fn explain(self, form: Form) -> &'static str {
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

/// Time for which an answer shows that a server knows a name in any spelling.
const SPELLED: Duration = Duration::from_secs(3600);
const MAX_SPELLED: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_were_answered_take_bounded_memory() {
        let mut learned = Learned::default();
        let now = Instant::now();
        for number in 0..10 * MAX_SPELLED {
            let name = Name::from_ascii(format!("x{number}.example.")).unwrap();
            learned.spell(&name, now);
            assert!(learned.spelled(&name));
            assert!(learned.spelled_until.len() <= MAX_SPELLED);
        }
    }
}
