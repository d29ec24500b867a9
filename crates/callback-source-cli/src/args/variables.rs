//! Environment variables of flags.
//!
//! The variables are derived from the names of the flags, for all commands at once. No flag can lack its variable,
//! and no variable can be misspelled.

use std::ffi::{OsStr, OsString};

use clap::{Arg, ArgAction, Command, builder::Resettable};

use super::{
    lists::pieces,
    names::{every_flag, nearest},
};
use crate::error::Error;

/// Gives each flag of each subcommand its variable: `--min-ttl` has `CALLBACK_SOURCE_MIN_TTL`.
pub(super) fn with_variables(command: Command) -> Command {
    every_flag(command, &|arg| match arg.get_long() {
        Some(name) if name != WITHOUT_VARIABLE => {
            let variable = PREFIX.to_owned() + &name.replace('-', "_").to_uppercase();
            arg.env(variable).hide_env_values(true)
        }
        _ => arg,
    })
}

/// Ignores blank variables: in a Compose file or a chart, an omitted value is an empty variable.
pub(super) fn without_blank_variables(
    command: Command,
    variable: fn(&OsStr) -> Option<OsString>,
) -> Command {
    let is_blank = |arg: &Arg| {
        let text = arg.get_env().and_then(variable);
        let text = text.as_deref().and_then(OsStr::to_str);
        match arg.get_action() {
            ArgAction::Append => text.is_some_and(|text| pieces(text).next().is_none()),
            _ => text.is_some_and(|text| text.trim().is_empty()),
        }
    };
    every_flag(command, &|arg| match is_blank(&arg) {
        true => arg.env(Resettable::Reset),
        false => arg,
    })
}

/// Rejects a variable with our prefix that belongs to no flag of any subcommand: a misspelled name must not
/// leave the default of the flag in use.
pub(super) fn reject_unknown(
    command: &Command,
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<(), Error> {
    let mut known = vec![SECRET_VARIABLE.to_owned()];
    collect(command, &mut known);
    let text = |text: &OsString| text.to_string_lossy().into_owned();
    let unknown = variables
        .map(|(name, value)| (text(&name), text(&value)))
        .filter(|(name, value)| {
            let own = name.strip_prefix(PREFIX);
            own.is_some_and(|own| !is_of_kubernetes(own, value))
                && !value.trim().is_empty()
                && !known.contains(name)
        });
    // The error names the same variable at each start, although the system lists variables in any order.
    let Some((name, _)) = unknown.min() else {
        return Ok(());
    };
    let own = |name: &'_ str| name.strip_prefix(PREFIX).unwrap_or(name).to_owned();
    let known: Vec<_> = known.iter().map(|name| own(name)).collect();
    let nearest = nearest(&own(&name), known.iter().map(String::as_str));
    Err(Error::UnknownVariable {
        nearest: nearest.map(|nearest| PREFIX.to_owned() + nearest),
        name,
    })
}

fn collect(command: &Command, names: &mut Vec<String>) {
    let variables = command.get_arguments().filter_map(Arg::get_env);
    names.extend(variables.filter_map(|name| name.to_str().map(str::to_owned)));
    for command in command.get_subcommands() {
        collect(command, names);
    }
}

/// Returns whether Kubernetes creates a variable of this form for a service whose name starts with
/// `callback-source`. `name` is without the prefix.
fn is_of_kubernetes(name: &str, value: &str) -> bool {
    let ends_with = |end: &str| name == end || name.ends_with(&format!("_{end}"));
    let has_number = || value.parse::<u16>().is_ok();
    let has_url = || {
        let (scheme, address) = value.split_once("://").unwrap_or_default();
        matches!(scheme, "tcp" | "udp" | "sctp") && !address.is_empty()
    };
    if ends_with("SERVICE_HOST") {
        return true;
    }
    // `SERVICE_PORT` and, for a port with a name, `SERVICE_PORT_HTTP`.
    if ends_with("SERVICE_PORT")
        || name.starts_with("SERVICE_PORT_")
        || name.contains("_SERVICE_PORT_")
    {
        return has_number();
    }
    // `PORT_8480_TCP`, `PORT_8480_TCP_ADDR`.
    let mut parts = name.rsplit_once("PORT_").unwrap_or_default().1.split('_');
    let is_port = parts
        .next()
        .is_some_and(|number| number.parse::<u16>().is_ok())
        && parts
            .next()
            .is_some_and(|kind| matches!(kind, "TCP" | "UDP" | "SCTP"))
        && parts
            .next()
            .is_none_or(|part| matches!(part, "PROTO" | "PORT" | "ADDR"))
        && parts.next().is_none();
    is_port || (ends_with("PORT") && has_url())
}

const PREFIX: &str = "CALLBACK_SOURCE_";

/// Name of the variable that contains the secret itself. No flag accepts the secret.
pub(crate) const SECRET_VARIABLE: &str = "CALLBACK_SOURCE_WEBHOOK_SECRET";

/// Header lines cannot be separated safely: their values may contain commas and blanks.
const WITHOUT_VARIABLE: &str = "header";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_variables_of_a_kubernetes_service_are_ignored() {
        for (name, value) in [
            ("SERVICE_HOST", "10.0.0.1"),
            ("SERVICE_PORT", "8480"),
            ("SERVICE_PORT_HTTP", "8480"),
            ("PORT", "tcp://10.0.0.1:8480"),
            ("PORT_8480_TCP", "tcp://10.0.0.1:8480"),
            ("PORT_8480_TCP_PROTO", "tcp"),
            ("PORT_8480_TCP_PORT", "8480"),
            ("PORT_8480_TCP_ADDR", "10.0.0.1"),
            ("PORT_53_UDP", "udp://10.0.0.1:53"),
            ("ADMIN_SERVICE_HOST", "10.0.0.1"),
            ("ADMIN_SERVICE_PORT_METRICS", "8481"),
            ("ADMIN_PORT_8481_TCP_ADDR", "10.0.0.1"),
        ] {
            assert!(is_of_kubernetes(name, value), "{name}={value}");
        }
        for (name, value) in [
            ("PORT", "8480"),
            ("PORT", "://"),
            ("LISTEN_PORT", "8480"),
            ("SERVICE_PORT", "http"),
            ("SERVICE", "x"),
            ("PORT_http_TCP", "x"),
            ("PORT_8480_TCP_X", "x"),
            ("PORT_8480_TCP_ADDR_X", "x"),
            ("ENVIROMENT", "test"),
        ] {
            assert!(!is_of_kubernetes(name, value), "{name}={value}");
        }
    }
}
