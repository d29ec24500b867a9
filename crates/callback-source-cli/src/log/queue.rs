//! Queue of lines for stderr, bounded in bytes.
//!
//! A write to stderr can block while no program reads stderr. The threads that log must not block, because they also
//! respond to requests. The queue is bounded in bytes and not in lines, because the length of a line depends on what
//! callers send. When the queue is full, the newest line is dropped, because the oldest lines show how a fault began.
//!
//! The writer reports the number of dropped lines once the queue is half empty. An earlier report could be dropped as
//! well.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use tracing::warn;

/// Number of lines dropped since the start.
pub(crate) fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}
/// Handle to a queue of lines.
#[derive(Clone, Default)]
pub(super) struct Lines(Arc<Queue>);

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    /// Size of the lines in bytes, including the overhead of each line.
    size: usize,
    /// `true` while a line that has left the queue is being written.
    writing: bool,
}

impl Lines {
    /// Adds a line, or drops it if it does not fit.
    pub(super) fn push(&self, line: Vec<u8>) {
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

    /// Writes lines as they arrive, forever.
    pub(super) fn write_to(&self, mut out: impl Write) {
        let mut reported = 0;
        loop {
            let (line, half_empty) = self.next();
            let written = write_to_end(&mut out, &line);
            if written.is_err() {
                DROPPED.fetch_add(1, Ordering::Relaxed);
            }
            // The report waits until the queue is half empty. Otherwise, the report could be dropped as well, and each
            // line that is written during a flood could cause another report.
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

    /// Waits for the next line and returns it. Also returns whether the queue is at most half full without this line.
    pub(super) fn next(&self) -> (Vec<u8>, bool) {
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

    pub(super) fn wait_until_written(&self, limit: Option<Duration>) {
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

/// Each call of `write` adds one whole line to the queue.
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
            // Another process that shares the pipe may have made the pipe non-blocking.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(RETRY),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Maximum size of the queue in bytes, enough for some minutes at ten lines a second.
const QUEUE_SIZE: usize = 1024 * 1024;
const RETRY: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
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

    /// Writer that accepts one byte at every second call. The other calls fail with `WouldBlock`.
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
}
