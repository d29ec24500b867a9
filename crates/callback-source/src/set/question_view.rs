//! View of one question of a set.

use super::{AllowSet, Rules, host::Host, question_state::QuestionState};
use crate::{Family, Question};

/// One question, together with its host, all hosts of the set, and the rules.
#[derive(Clone, Copy)]
pub(super) struct QuestionView<'a> {
    pub(super) host: &'a Host,
    pub(super) family: Family,
    hosts: &'a [Host],
    pub(super) rules: &'a Rules,
}

impl AllowSet {
    /// Returns the view of the question about the host at this position, for a family.
    pub(super) fn view(&self, at: usize, family: Family) -> QuestionView<'_> {
        QuestionView {
            host: &self.hosts[at],
            family,
            hosts: &self.hosts,
            rules: &self.rules,
        }
    }

    /// Returns the view of a question of the set. `None` if the question is about a host that is not in the set, or
    /// about a family that is not looked up.
    pub(super) fn find(&self, question: &Question) -> Option<QuestionView<'_>> {
        let at = self.position(question)?;
        Some(self.view(at, question.family))
    }

    /// Returns the view of a question of the set or about a watched host, or `None` for any other question.
    pub(super) fn find_asked(&self, question: &Question) -> Option<QuestionView<'_>> {
        let watched = || self.watched_set()?.find(question);
        self.find(question).or_else(watched)
    }

    /// Returns the position of the host that a question of the set is about.
    pub(super) fn position(&self, question: &Question) -> Option<usize> {
        if !self.rules.asks(question.family) {
            return None;
        }
        let mut hosts = self.hosts.iter();
        hosts.position(|host| host.name == question.host)
    }
}

impl<'a> QuestionView<'a> {
    pub(super) fn state(self) -> &'a QuestionState {
        self.host.state(self.family)
    }

    /// Returns the other hosts of the set.
    pub(super) fn others(self) -> impl Iterator<Item = &'a Host> {
        let name = &self.host.name;
        self.hosts.iter().filter(move |other| other.name != *name)
    }

    /// Returns the other hosts of the set that are in the same zone.
    pub(super) fn others_of_zone(self) -> impl Iterator<Item = &'a Host> {
        let name = &self.host.name;
        self.others()
            .filter(move |other| other.name.is_of_same_zone(name))
    }
}
