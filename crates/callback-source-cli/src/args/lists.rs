//! Values with surrounding blanks, and lists of values.
//!
//! Most values come from variables in a Compose file, a Helm chart or a systemd unit. YAML blocks end with a line
//! break, and people put a blank after each comma. No value contains a line break or a blank, so both separate values.

use std::ffi::OsStr;

use clap::{
    Arg, Command,
    builder::{PossibleValue, TypedValueParser},
    error::{ContextKind, ContextValue, ErrorKind},
};

/// Several values of a flag, separated by commas, blanks or line breaks. Empty elements are skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct List<T>(Vec<T>);

/// All values of a repeatable flag.
pub(crate) fn all<T: Clone>(lists: &[List<T>]) -> Vec<T> {
    lists.iter().flat_map(|list| list.0.clone()).collect()
}

/// Parser of a [`List`].
pub(super) fn list<P: TypedValueParser>(each: P) -> ListParser<P> {
    ListParser(each)
}

/// Parser that ignores blanks and line breaks around a value.
pub(super) fn trimmed<P: TypedValueParser>(value: P) -> TrimmedParser<P> {
    TrimmedParser(value)
}

#[derive(Clone, Debug)]
pub(super) struct ListParser<P>(P);

#[derive(Clone, Debug)]
pub(super) struct TrimmedParser<P>(P);

impl<P> TypedValueParser for ListParser<P>
where
    P: TypedValueParser,
    P::Value: Clone + Send + Sync + 'static,
{
    type Value = List<P::Value>;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<Self::Value, clap::Error> {
        let Some(text) = value.to_str() else {
            let value = self.0.parse_ref(command, arg, value)?;
            return Ok(List(vec![value]));
        };
        let values = pieces(text).map(|piece| self.0.parse_ref(command, arg, OsStr::new(piece)));
        let values: Vec<_> = values.collect::<Result<_, _>>()?;
        match values.is_empty() {
            true => Err(empty(command, arg)),
            false => Ok(List(values)),
        }
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        self.0.possible_values()
    }
}

impl<P> TypedValueParser for TrimmedParser<P>
where
    P: TypedValueParser,
    P::Value: Clone + Send + Sync + 'static,
{
    type Value = P::Value;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<Self::Value, clap::Error> {
        let value = match value.to_str() {
            Some(text) => OsStr::new(text.trim()),
            None => value,
        };
        match value.is_empty() {
            true => Err(empty(command, arg)),
            false => self.0.parse_ref(command, arg, value),
        }
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        self.0.possible_values()
    }
}

pub(super) fn pieces(text: &str) -> impl Iterator<Item = &str> {
    text.split(|char: char| char == ',' || char.is_whitespace())
        .filter(|piece| !piece.is_empty())
}

/// The error that clap reports for a flag without a value.
fn empty(command: &Command, arg: Option<&Arg>) -> clap::Error {
    let mut error = clap::Error::new(ErrorKind::InvalidValue).with_cmd(command);
    if let Some(arg) = arg {
        let flag = ContextValue::String(arg.to_string());
        error.insert(ContextKind::InvalidArg, flag);
    }
    let nothing = ContextValue::String(String::new());
    error.insert(ContextKind::InvalidValue, nothing);
    error
}
