//! Summary of the results of many seeds.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    play::Played,
    world::{Class, Tally, Violation},
};

/// Sum of the results of several runs.
#[derive(Debug, Default)]
pub(crate) struct Sum {
    pub(crate) seeds: u64,
    tally: Tally,
    /// Simulated time, in milliseconds.
    virtual_time: i64,
    most_questions: u64,
    pub(crate) wrong: BTreeMap<u64, Violation>,
}

impl Sum {
    pub(crate) fn add(&mut self, seed: u64, played: &Played) {
        self.seeds += 1;
        self.virtual_time += played.until;
        self.most_questions = self.most_questions.max(played.tally.questions);
        let Tally {
            admitted,
            refused,
            undecided,
            either,
            requests,
            waited,
            questions,
            messages,
            processes,
            trace,
        } = played.tally;
        let sum = &mut self.tally;
        sum.admitted += admitted;
        sum.refused += refused;
        sum.undecided += undecided;
        sum.either += either;
        sum.requests += requests;
        sum.waited += waited;
        sum.questions += questions;
        sum.messages += messages;
        sum.processes += processes;
        sum.trace = sum.trace.wrapping_add(trace);
        if let Some(violation) = &played.violation {
            self.wrong.insert(seed, violation.clone());
        }
        if QUESTIONS < questions {
            let detail = format!("{questions} questions, more than {QUESTIONS}");
            self.wrong.entry(seed).or_insert(Violation {
                at: played.until,
                class: Class::TooManyQuestions,
                detail,
            });
        }
    }

    pub(crate) fn report(&self, wall: Duration) -> String {
        let tally = &self.tally;
        let verdicts = tally.admitted + tally.refused + tally.undecided;
        let wrong = |class| self.wrong.values().filter(|of| of.class == class).count();
        let mut text = format!(
            "seeds                {}, {:.1} years in {:.1} s\n\
             verdicts             {verdicts}: {} admitted, {} refused, {} undecided\n\
             oracle               {} decided, {} either\n\
             requests             {} through the layers, {} waited\n\
             questions            {}, at most {} of a seed; {} messages of the real resolver\n\
             processes            {}\n\
             trace                {:016x}\n\
             wrong admissions     {}\n\
             wrong refusals       {}\n\
             wrong indecision     {}\n\
             asked too often      {}\n\
             too many questions   {}\n\
             asked too late       {}\n\
             wrong waiting        {}\n\
             wrong responses      {}\n\
             wrong lookups        {}",
            self.seeds,
            self.virtual_time as f64 / (365.0 * 86_400_000.0),
            wall.as_secs_f64(),
            tally.admitted,
            tally.refused,
            tally.undecided,
            verdicts - tally.either,
            tally.either,
            tally.requests,
            tally.waited,
            tally.questions,
            self.most_questions,
            tally.messages,
            tally.processes,
            tally.trace,
            wrong(Class::WrongAdmission),
            wrong(Class::WrongRefusal),
            wrong(Class::WrongIndecision),
            wrong(Class::AskedTooOften),
            wrong(Class::TooManyQuestions),
            wrong(Class::AskedTooLate),
            wrong(Class::Waiting),
            wrong(Class::Response),
            wrong(Class::Lookup),
        );
        for (seed, violation) in &self.wrong {
            text += "\n  ";
            text += &violation.of_seed(*seed);
        }
        text
    }
}

/// Maximum number of questions per seed.
const QUESTIONS: u64 = 100_000;
