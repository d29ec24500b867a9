//! Capture of the library's log lines.

use std::{
    cell::RefCell,
    io,
    rc::{Rc, Weak},
    sync::Once,
};

use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt,
    registry,
    util::SubscriberInitExt,
};

/// The library's events on this thread, one per line, from [`Log::capture`] until the log is dropped.
///
/// A `#[tokio::test]` runs all its tasks on one thread.
#[must_use = "nothing is captured once it is dropped"]
#[derive(Debug)]
pub struct Log(Rc<RefCell<Vec<u8>>>);

impl Log {
    /// Starts to capture events of all levels.
    pub fn capture() -> Self {
        // There is one subscriber for all threads. With several scoped subscribers, the thread that reaches an event
        // first decides whether the event is enabled.
        SUBSCRIBE.call_once(|| {
            let output = fmt::layer().with_ansi(false).with_writer(|| ThisThread);
            let library = Targets::new().with_target("callback_source", LevelFilter::TRACE);
            registry().with(output).with(library).init();
        });
        let text = Rc::default();
        CAPTURED.with(|captured| *captured.borrow_mut() = Rc::downgrade(&text));
        Self(text)
    }

    /// Returns the lines of this level that contain all these parts.
    #[must_use]
    pub fn lines(&self, level: &str, parts: &[&str]) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.0.borrow()).into_owned();
        text.lines()
            .filter(|line| line.contains(&format!(" {level} ")))
            .filter(|line| parts.iter().all(|part| line.contains(part)))
            .map(str::to_owned)
            .collect()
    }
}

struct ThisThread;

impl io::Write for ThisThread {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(text) = CAPTURED.with(|captured| captured.borrow().upgrade()) {
            text.borrow_mut().extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

static SUBSCRIBE: Once = Once::new();

thread_local! {
    static CAPTURED: RefCell<Weak<RefCell<Vec<u8>>>> = const { RefCell::new(Weak::new()) };
}
