//! The journal: a record of events, with one JSON object per line.
//!
//! Log lines are soon gone, and metrics have no addresses. Even after weeks, the journal shows whether the provider
//! rotated its addresses, whether a peer was refused, and whether a refused peer was a server of the provider.
//!
//! 1. Each line is written immediately, with a single call. A process that is killed therefore leaves at most one torn
//!    line at the end. Readers skip this line.
//! 2. The file is rotated at 4 MiB. One earlier file, `<name>.1`, is kept.
//! 3. Peer addresses are removed after the time of `--journal-keep`, because they are personal data.
//! 4. A separate thread writes, so that no other thread waits for a write to the disk. While this thread cannot write,
//!    as on a full disk, up to 256 KiB of events wait in memory. Beyond this limit, the oldest events are dropped and
//!    counted. While a disk hangs, events that do not fit into the thread's queue are dropped and counted as well.
//! 5. The id increases from line to line, so the order is known even after the clock was set back. A clock that is set
//!    back by a minute or more also causes an event.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, SystemTime},
};

use tokio::sync::oneshot;

mod event;
mod file;

use self::{
    event::Selection,
    file::{JournalFile, selected},
};
pub(crate) use self::{
    event::{Entry, Event, time_text},
    file::FIRST_ID,
};
use crate::error::Error;

/// Handle to the journal of a server.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    queue: SyncSender<Order>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Order {
    Write(SystemTime, Event),
    /// Requests a message that is sent once all earlier orders are done. The message contains the lines that could not
    /// be written.
    Flush(oneshot::Sender<Vec<Vec<u8>>>),
}

impl Journal {
    /// Starts the thread that writes to the file at `path`.
    pub(crate) fn start(path: &Path, keep: Duration) -> Result<Self, Error> {
        let (queue, orders) = sync_channel(QUEUE);
        let dropped = Arc::<AtomicU64>::default();
        let mut file = JournalFile::new(path.to_owned(), keep, Arc::clone(&dropped));
        let write = move || {
            file.open();
            loop {
                match orders.recv_timeout(BETWEEN_ATTEMPTS) {
                    Ok(Order::Write(at, event)) => file.append(at, event),
                    Ok(Order::Flush(done)) => {
                        file.write_waiting(SystemTime::now());
                        done.send(file.waiting()).unwrap_or_default();
                    }
                    Err(RecvTimeoutError::Timeout) => file.write_waiting(SystemTime::now()),
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        thread::Builder::new()
            .name("journal".to_owned())
            .spawn(write)
            .map_err(Error::Start)?;
        Ok(Self {
            path: path.to_owned(),
            queue,
            dropped,
        })
    }

    pub(crate) fn record(&self, event: Event) {
        if self
            .queue
            .try_send(Order::Write(SystemTime::now(), event))
            .is_err()
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Number of events that were dropped because writing failed or the disk did not respond in time.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits for at most 2 s until all earlier events are written. Returns the lines that could not be written, or
    /// `None` if the queue is full or the wait timed out.
    pub(crate) async fn flush(&self) -> Option<Vec<Vec<u8>>> {
        let (done, waiting) = oneshot::channel();
        self.queue.try_send(Order::Flush(done)).ok()?;
        let waiting = tokio::time::timeout(FLUSH_LIMIT, waiting).await;
        waiting.ok().and_then(Result::ok)
    }

    /// Events since a time, or all events, oldest first.
    pub(crate) async fn entries(&self, since: Option<SystemTime>) -> Vec<Entry> {
        let lines = self.lines(since, None, None).await;
        let lines = lines.split(|byte| *byte == b'\n');
        lines
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect()
    }

    /// Lines of the journal that match the arguments, oldest first.
    pub(crate) async fn lines(
        &self,
        since: Option<SystemTime>,
        peer: Option<IpAddr>,
        after: Option<u64>,
    ) -> Vec<u8> {
        let waiting = self.flush().await.unwrap_or_default();
        let path = self.path.clone();
        let selection = Selection { since, peer, after };
        let read = tokio::task::spawn_blocking(move || selected(&path, &waiting, &selection));
        read.await.unwrap_or_default()
    }
}

const QUEUE: usize = 1024;
pub(crate) const FLUSH_LIMIT: Duration = Duration::from_secs(2);
const BETWEEN_ATTEMPTS: Duration = Duration::from_secs(10);
