//! The log, and everything else that goes to stderr once the log is set up.
//!
//! A reader that has stopped, such as a paused terminal or a stuck log driver, must not stop the
//! server. Lines go into a queue of bounded size, and a separate thread writes them. Lines without
//! room are dropped and counted.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    collections::VecDeque,
    fmt,
    io::{self, Write},
    panic::{self, PanicHookInfo},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use tracing::{Event, Level, Metadata, Subscriber, error, warn};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::filter_fn,
    fmt::{
        FmtContext, FormatEvent,
        format::{Format, Json, JsonFields, Writer},
    },
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use crate::{
    args::{CommonArgs, LogFormat},
    error::Error,
};

/// Sets up the log of a command that asks once. It reports the outcome of each question itself, so
/// the events about questions are left out, unless a filter was given.
pub(crate) fn init_for_one_shot(args: &CommonArgs) -> Result<(), Error> {
    // Like any command, it may wait for the reader of its output: signals still end it.
    init(args, ONE_SHOT_FILTER, None, |metadata| {
        metadata.fields().field("question").is_none()
    })
}

/// Sets up the log of a command that keeps running.
pub(crate) fn init_for_server(args: &CommonArgs) -> Result<(), Error> {
    init(args, SERVER_FILTER, Some(END_LIMIT), |_| true)?;
    // The hook of the standard library waits for stderr, on a thread of the runtime.
    panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Number of lines dropped since the start.
pub(crate) fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Writes a line to stderr, through the log's queue if there is one.
pub(crate) fn write_line(line: String) {
    match LOG.get() {
        Some(log) => log.lines.push(line.into_bytes()),
        // `eprintln!` would panic where nothing reads.
        None => io::stderr().write_all(line.as_bytes()).unwrap_or_default(),
    }
}

/// Waits until everything is written, with a time limit for a command that keeps running.
pub(crate) fn finish() {
    if let Some(log) = LOG.get() {
        log.lines.wait_until_written(log.end_limit);
    }
}

fn init(
    args: &CommonArgs,
    default: &str,
    end_limit: Option<Duration>,
    by_default: fn(&Metadata<'_>) -> bool,
) -> Result<(), Error> {
    let filter = args.log.as_deref().unwrap_or(default);
    let by_level = EnvFilter::builder()
        .parse(filter)
        .map_err(|cause| Error::LogFilter {
            filter: filter.to_owned(),
            cause,
        })?;
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
            let format = ListsAsArrays(Format::default().json().flatten_event(true));
            layer
                .fmt_fields(JsonFields::new())
                .event_format(format)
                .boxed()
        }
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(by_field))
        .with(by_level)
        .init();
    // A command starts one log only.
    LOG.get_or_init(|| Log { lines, end_limit });
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
        // A filter must not hide a defect.
        write_line(format!("{text}\n"));
    }
    error!(thread = thread.name(), backtrace, "{text}");
}

struct Log {
    lines: Lines,
    end_limit: Option<Duration>,
}

/// Handle to a queue of lines.
#[derive(Clone, Default)]
struct Lines(Arc<Queue>);

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    /// Size of the lines in bytes, with the memory that each takes besides its text.
    size: usize,
    /// A line that has left the queue is being written.
    writing: bool,
}

impl Lines {
    /// Adds a line, or drops it when there is no room.
    fn push(&self, line: Vec<u8>) {
        let mut state = self.lock();
        let size = size(&line);
        if QUEUE_SIZE < state.size + size {
            DROPPED.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.size += size;
        state.lines.push_back(line);
        drop(state);
        self.0.changed.notify_all();
    }

    /// Writes lines as they come, forever.
    fn write_to(&self, mut out: impl Write) {
        let mut reported = 0;
        loop {
            let (line, half_empty) = self.next();
            let written = write_to_end(&mut out, &line);
            if written.is_err() {
                DROPPED.fetch_add(1, Ordering::Relaxed);
            }
            // Not while the queue is full: this line would be dropped as well, and under a lasting
            // flood there would be one for each line that gets through.
            if written.is_ok() && half_empty && reported < dropped() {
                reported = dropped();
                warn!(
                    log_lines_dropped = reported,
                    "log lines were dropped: stderr was not read in time"
                );
            }
            self.lock().writing = false;
            self.0.changed.notify_all();
        }
    }

    /// The next line, and whether the queue is at most half full behind it.
    fn next(&self) -> (Vec<u8>, bool) {
        let mut state = self.lock();
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.size -= size(&line);
                state.writing = true;
                return (line, state.size <= QUEUE_SIZE / 2);
            }
            let waited = self.0.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn wait_until_written(&self, limit: Option<Duration>) {
        let state = self.lock();
        let open = |state: &mut State| state.writing || !state.lines.is_empty();
        match limit {
            Some(limit) => drop(self.0.changed.wait_timeout_while(state, limit, open)),
            None => drop(self.0.changed.wait_while(state, open)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        let state = self.0.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Each call takes one whole line.
impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn size(line: &[u8]) -> usize {
    line.len() + size_of::<Vec<u8>>()
}

fn write_to_end(out: &mut impl Write, mut line: &[u8]) -> io::Result<()> {
    while !line.is_empty() {
        match out.write(line) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(length) => line = &line[length..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Another process that shares the pipe may have made it non-blocking.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(RETRY),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// JSON format of `tracing-subscriber`, with the library's lists as arrays of strings. `tracing` has
/// no stable way to record a list.
struct ListsAsArrays(Format<Json>);

impl<S> FormatEvent<S, JsonFields> for ListsAsArrays
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let has_list = LIST_FIELDS
            .iter()
            .any(|list| metadata.fields().field(list).is_some());
        if !has_list || !metadata.target().starts_with("callback_source") {
            return self.0.format_event(context, writer, event);
        }
        let mut text = String::new();
        self.0
            .format_event(context, Writer::new(&mut text), event)?;
        let Ok(mut line) = serde_json::from_str::<serde_json::Map<_, _>>(&text) else {
            return writer.write_str(&text);
        };
        for list in LIST_FIELDS {
            if let Some(value) = line.get_mut(list)
                && let Some(text) = value.as_str()
            {
                *value = array(text);
            }
        }
        writeln!(writer, "{}", serde_json::Value::from(line))
    }
}

/// Elements of a list that was recorded as `[a, b]` or `a,b`. No address and no host name contains a
/// comma.
fn array(text: &str) -> serde_json::Value {
    let inner = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let elements = inner.unwrap_or(text).split(',').map(str::trim);
    elements.filter(|element| !element.is_empty()).collect()
}

static LOG: OnceLock<Log> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Other crates log without a limit what a peer sends. At WARN hickory logs each packet from a wrong
/// address, and h2 each PING acknowledgement that it did not ask for.
const SERVER_FILTER: &str = "error,callback_source=info";
const ONE_SHOT_FILTER: &str = "error,callback_source=warn";

/// Fields of the library's events that hold lists.
const LIST_FIELDS: [&str; 5] = ["added", "removed", "hosts", "addresses", "servers"];

/// Room for some minutes of ten lines a second.
const QUEUE_SIZE: usize = 1024 * 1024;

/// Time limit for writing the last lines.
const END_LIMIT: Duration = Duration::from_secs(1);

const RETRY: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_without_room_is_dropped_and_counted() {
        let lines = Lines::default();
        let before = dropped();
        for _ in 0..QUEUE_SIZE / 64 {
            lines.push(vec![b'x'; 64]);
        }
        let kept = lines.lock().lines.len();
        assert_eq!(kept, QUEUE_SIZE / (64 + size_of::<Vec<u8>>()));
        assert_eq!(dropped() - before, (QUEUE_SIZE / 64 - kept) as u64);

        lines.push(vec![b'x'; QUEUE_SIZE]);
        assert_eq!(lines.lock().lines.len(), kept);
        let (_, half_empty) = lines.next();
        assert!(!half_empty);
        while lines.lock().lines.len() > 1 {
            lines.next();
        }
        let (_, half_empty) = lines.next();
        assert!(half_empty);
        assert_eq!(lines.lock().size, 0);
    }

    #[test]
    fn the_end_waits_for_the_last_line_and_not_forever() {
        let lines = Lines::default();
        lines.push(b"last\n".to_vec());
        lines.wait_until_written(Some(Duration::from_millis(1)));

        let (out, written) = std::sync::mpsc::channel();
        let writer = lines.clone();
        thread::spawn(move || writer.write_to(Out(out, 0)));
        lines.wait_until_written(None);
        assert_eq!(written.try_iter().flatten().collect::<Vec<_>>(), b"last\n");
    }

    /// Takes one byte with every second call, and is not ready otherwise.
    struct Out(std::sync::mpsc::Sender<Vec<u8>>, u32);

    impl Write for Out {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 += 1;
            if self.1 % 2 == 1 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.0.send(bytes[..1].to_vec()).unwrap();
            Ok(1)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

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

    #[test]
    fn a_list_is_split_into_its_elements() {
        for (text, list) in [
            ("[]", json!([])),
            ("", json!([])),
            ("[192.0.2.1]", json!(["192.0.2.1"])),
            (
                "[192.0.2.1, 2001:db8::1]",
                json!(["192.0.2.1", "2001:db8::1"]),
            ),
            (
                "[192.0.2.1:53, [2001:db8::1]:53]",
                json!(["192.0.2.1:53", "[2001:db8::1]:53"]),
            ),
            ("[[2001:db8::1]:53]", json!(["[2001:db8::1]:53"])),
            (
                "one.example,two.example",
                json!(["one.example", "two.example"]),
            ),
        ] {
            assert_eq!(array(text), list, "{text}");
        }
    }
}
