use std::collections::HashMap;

use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{CNAME, SOA},
    },
};

use super::absolute;

/// The records of the server. A [`Name`] is the same key in any letter case.
#[derive(Debug)]
pub(super) struct Zone {
    names: HashMap<Name, Vec<(u32, RData)>>,
    appended: HashMap<Name, Vec<(RecordType, Record)>>,
    pub(super) negative_ttl: Option<u32>,
    pub(super) follow_cnames: bool,
}

impl Zone {
    pub(super) fn replace(&mut self, name: Name, records: Vec<(u32, RData)>) {
        self.names.insert(name, records);
    }

    pub(super) fn append(&mut self, name: Name, asked: RecordType, record: Record) {
        let appended = self.appended.entry(name).or_default();
        appended.push((asked, record));
    }

    pub(super) fn remove(&mut self, name: &Name) {
        self.names.remove(name);
        self.appended.remove(name);
    }

    pub(super) fn answer(&self, question: &Query, response: &mut Message) {
        self.walk(question, response);
        let appended = self.appended.get(question.name()).into_iter().flatten();
        let asked = appended.filter(|(asked, _)| *asked == question.query_type());
        response.add_answers(asked.map(|(_, record)| record.clone()));
    }

    /// Follows the chain of CNAMEs from the name to the records in question.
    fn walk(&self, question: &Query, response: &mut Message) {
        let mut owner = question.name().clone();
        loop {
            let Some(records) = self.names.get(&owner) else {
                response.metadata.response_code = ResponseCode::NXDomain;
                self.deny(&owner, response);
                return;
            };
            let asked = records
                .iter()
                .filter(|(_, data)| data.record_type() == question.query_type());
            let known = response.answers.len();
            response.add_answers(
                asked.map(|(ttl, data)| Record::from_rdata(owner.clone(), *ttl, data.clone())),
            );
            if response.answers.len() > known {
                return;
            }
            let Some((ttl, target)) = records.iter().find_map(alias) else {
                self.deny(&owner, response);
                return;
            };
            if response.answers.iter().any(|seen| seen.name == owner) {
                return;
            }
            let data = RData::CNAME(CNAME(target.clone()));
            response.add_answer(Record::from_rdata(owner, ttl, data));
            if !self.follow_cnames {
                return;
            }
            owner = target.clone();
        }
    }

    /// Adds the SOA of a negative answer, for the zone of `name`.
    pub(super) fn deny(&self, name: &Name, response: &mut Message) {
        let Some(ttl) = self.negative_ttl else {
            return;
        };
        let soa = SOA::new(
            absolute("ns.invalid"),
            absolute("hostmaster.invalid"),
            1,
            7200,
            900,
            86_400,
            ttl,
        );
        response.add_authority(Record::from_rdata(name.base_name(), ttl, RData::SOA(soa)));
    }
}

impl Default for Zone {
    fn default() -> Self {
        Self {
            names: HashMap::new(),
            appended: HashMap::new(),
            negative_ttl: Some(30),
            follow_cnames: true,
        }
    }
}

fn alias((ttl, data): &(u32, RData)) -> Option<(u32, &Name)> {
    match data {
        RData::CNAME(CNAME(target)) => Some((*ttl, target)),
        _ => None,
    }
}
