//! Memory of the query forms that a server answers.
//!
//! Without this memory, each lookup would repeat the search for a form that works. Nothing is remembered forever. EDNS
//! and random letter case are tried again, because the server may have been replaced and because random letter case
//! protects against forged answers.

use std::{collections::HashMap, time::Duration};

use hickory_resolver::proto::rr::Name;
use tokio::time::Instant;

use super::form::Form;

#[derive(Default)]
pub(super) struct Learned {
    /// The form to try first, and the time until which it is tried first.
    pub(super) first_until: Option<(Form, Instant)>,
    /// Time at which the usual form is tried again, if another form is tried first.
    pub(super) usual_again_at: Option<Instant>,
    /// The last form that was logged.
    pub(super) logged: Option<Form>,
    /// Time until which TCP is tried last.
    pub(super) tcp_last_until: Option<Instant>,
    /// Names that were answered in random case. Until the time of its entry, a name is assumed to be accepted in any
    /// letter case.
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
        // Servers choose the targets of aliases, so the number of names is unbounded.
        if self.spelled_until.len() >= MAX_SPELLED {
            self.spelled_until.clear();
        }
        self.spelled_until.insert(name.clone(), now + SPELLED);
    }
}

/// Outcomes of the forms that were tried earlier for the same query.
#[derive(Clone, Copy, Default)]
pub(super) struct Past {
    /// Problem that explains why another form is needed. `None` means silence.
    pub(super) first: Option<Trouble>,
    /// True if TCP was tried.
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
                "the DNS server denies names that are not in lower case, so it is queried over TCP"
            }
            (Some(Trouble::Respelled), _) => {
                "the DNS server changes the case of letters in a query, so it is queried over TCP"
            }
            (None, Form::Tcp) => "the DNS server answers over TCP but not over UDP",
            _ => "the DNS server answers only without EDNS and random letter case",
        }
    }
}

/// Time for which the resolver remembers that a server accepts any letter case of a name.
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
