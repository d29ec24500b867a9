//! The log, and everything else that is written to stderr once the log is set up.
//!
//! A reader that no longer reads, such as a paused terminal or a stuck log driver, must not stop the server. Lines go
//! into a queue of bounded size, and a separate thread writes them. Lines that do not fit are dropped and counted.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, Write},
    panic::{self, PanicHookInfo},
    sync::OnceLock,
    thread,
    time::Duration,
};

use tracing::{Level, Metadata, error};
use tracing_subscriber::{
    EnvFilter, Layer, Registry, filter::filter_fn, fmt::format::JsonFields, layer::SubscriberExt,
    reload, util::SubscriberInitExt,
};

mod json;
mod queue;
mod rate_limit;

use self::{json::ListsAsArrays, queue::Lines};
pub(crate) use self::{queue::dropped, rate_limit::OncePerMinute};
use crate::{
    args::{CommonArgs, LogFormat},
    error::Error,
};

/// Sets up the log of a command that looks up the hosts once. The command reports the outcome of each question itself,
/// so events about questions are omitted unless a filter was given.
pub(crate) fn init_for_one_shot(args: &CommonArgs) -> Result<(), Error> {
    // At its end, the command may wait forever for the reader of stderr. Signals still end the command.
    init(args, ONE_SHOT_FILTER, None, |metadata| {
        metadata.fields().field("question").is_none()
    })
}

/// Sets up the log of a command that keeps running.
pub(crate) fn init_for_server(args: &CommonArgs) -> Result<(), Error> {
    init(args, SERVER_FILTER, Some(END_LIMIT), |_| true)?;
    // The standard library's panic hook would block a thread of the runtime while stderr is not read.
    panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Writes a line to stderr, through the log's queue if the log has been set up.
pub(crate) fn write_line(line: String) {
    match LOG.get() {
        Some(log) => log.lines.push(line.into_bytes()),
        // `eprintln!` panics if the reader has closed the pipe.
        None => io::stderr().write_all(line.as_bytes()).unwrap_or_default(),
    }
}

/// Waits until all lines are written. A command that keeps running has a time limit for this wait.
pub(crate) fn finish() {
    if let Some(log) = LOG.get() {
        log.lines.wait_until_written(log.end_limit);
    }
}

/// Returns the log filter of a server.
pub(crate) fn filter(args: &CommonArgs) -> Result<EnvFilter, Error> {
    parse(args.log.as_deref().unwrap_or(SERVER_FILTER))
}

/// Replaces the log filter of a server.
pub(crate) fn set_filter(filter: EnvFilter) {
    if let Some(log) = LOG.get() {
        // `reload` fails only if the subscriber has been dropped.
        let _ = log.filter.reload(filter);
    }
}

fn parse(filter: &str) -> Result<EnvFilter, Error> {
    let parsed = EnvFilter::builder().parse(filter);
    parsed.map_err(|cause| Error::LogFilter {
        filter: filter.to_owned(),
        cause,
    })
}

fn init(
    args: &CommonArgs,
    default: &str,
    end_limit: Option<Duration>,
    by_default: fn(&Metadata<'_>) -> bool,
) -> Result<(), Error> {
    let by_level = parse(args.log.as_deref().unwrap_or(default))?;
    let (by_level, filter) = reload::Layer::new(by_level);
    let given = args.log.is_some();
    let by_field = filter_fn(move |metadata| given || by_default(metadata));

    let lines = Lines::default();
    let written = lines.clone();
    thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || written.write_to(io::stderr()))
        .map_err(Error::Start)?;
    let writer = lines.clone();
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(move || writer.clone())
        .log_internal_errors(false);
    let layer = match args.log_format {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => {
            let format = ListsAsArrays::new();
            layer
                .fmt_fields(JsonFields::new())
                .event_format(format)
                .boxed()
        }
    };
    tracing_subscriber::registry()
        .with(by_level)
        .with(layer.with_filter(by_field))
        .init();
    // A command sets up its log only once.
    LOG.get_or_init(|| Log {
        lines,
        end_limit,
        filter,
    });
    Ok(())
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let backtrace = Backtrace::capture();
    let backtrace = match backtrace.status() {
        BacktraceStatus::Captured => Some(tracing::field::display(backtrace)),
        _ => None,
    };
    let text = panic.to_string().replace('\n', " ");
    if !tracing::enabled!(Level::ERROR) {
        // A panic is a defect, which the log filter must not hide.
        write_line(format!("{text}\n"));
    }
    error!(thread = thread.name(), backtrace, "{text}");
}

struct Log {
    lines: Lines,
    end_limit: Option<Duration>,
    filter: reload::Handle<EnvFilter, Registry>,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// Default log filter of a server. Of other crates, it admits only errors, because these crates have no rate limit for
/// log lines that peers cause. At WARN, hickory logs each packet from a wrong address, and h2 each unsolicited PING
/// acknowledgement.
const SERVER_FILTER: &str = "error,callback_source=info";
const ONE_SHOT_FILTER: &str = "error,callback_source=warn";

/// Time limit for writing the last lines.
const END_LIMIT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_logged() {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt().with_writer(move || writer.clone());
        let hook = panic::take_hook();
        panic::set_hook(Box::new(log_panic));
        tracing::subscriber::with_default(log.finish(), || {
            panic::catch_unwind(|| panic!("two\nlines")).unwrap_err();
        });
        panic::set_hook(hook);
        let (line, _) = lines.next();
        let line = String::from_utf8(line).unwrap();
        assert!(
            line.contains("ERROR") && line.contains("panicked at "),
            "{line}"
        );
        assert!(line.contains("two lines"), "{line}");
    }
}
