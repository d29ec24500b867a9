//! Values as people write them: with blanks around them, several in one text, or none.

use std::ffi::{OsStr, OsString};

use clap::{
    Arg, ArgAction, Command,
    builder::{PossibleValue, Resettable, TypedValueParser},
    error::{ContextKind, ContextValue, ErrorKind},
};
use ipnet::IpNet;

/// Takes away the variables of flags that hold nothing: in a Compose file or a chart, that is how a value
/// is left out.
pub(super) fn without_blank_variables(
    command: Command,
    variable: fn(&OsStr) -> Option<OsString>,
) -> Command {
    let is_blank = move |arg: &Arg| {
        let text = arg.get_env().and_then(variable);
        let text = text.as_deref().and_then(OsStr::to_str);
        match arg.get_action() {
            ArgAction::Append => text.is_some_and(|text| pieces(text).next().is_none()),
            _ => text.is_some_and(|text| text.trim().is_empty()),
        }
    };
    let unset = move |arg: Arg| match is_blank(&arg) {
        true => arg.env(Resettable::Reset),
        false => arg,
    };
    command.mut_subcommands(move |command| command.mut_args(unset))
}

/// Several values of a flag. They are separated by commas, blanks or line breaks; what is between two
/// commas may be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct List<T>(Vec<T>);

/// All values of a flag that may be repeated.
pub(crate) fn all<T: Clone>(lists: &[List<T>]) -> Vec<T> {
    lists.iter().flat_map(|list| list.0.clone()).collect()
}

/// Reads a [`List`].
pub(super) fn list<P: TypedValueParser>(each: P) -> ListParser<P> {
    ListParser(each)
}

/// Reads a value without the blanks and line breaks around it.
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

/// A single address as what it is.
pub(crate) fn plain(network: IpNet) -> String {
    match network.prefix_len() == network.max_prefix_len() {
        true => network.addr().to_string(),
        false => network.to_string(),
    }
}

fn pieces(text: &str) -> impl Iterator<Item = &str> {
    text.split(|char: char| char == ',' || char.is_whitespace())
        .filter(|piece| !piece.is_empty())
}

/// The error that clap itself makes of a flag without a value.
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
