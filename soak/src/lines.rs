//! Counter of log lines.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{Layer, layer::Context};

/// Counts the events of the library at INFO and above. Most services log at INFO.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines {
    pub(crate) info: Arc<AtomicU64>,
    pub(crate) warn: Arc<AtomicU64>,
    pub(crate) error: Arc<AtomicU64>,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        *metadata.level() <= Level::INFO && metadata.target().starts_with("callback_source")
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let count = match *event.metadata().level() {
            Level::ERROR => &self.error,
            Level::WARN => &self.warn,
            _ => &self.info,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}
