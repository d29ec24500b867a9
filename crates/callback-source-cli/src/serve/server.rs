//! A listener with its connections. Each connection has one of its [`permits`](super::permits).

use std::{future::poll_fn, io, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep},
};
use tracing::warn;

use super::{
    connection::{self, Terms},
    idle::{Signal, Waiting},
    listener::{Arrived, Listener},
    owner::Owner,
    permits::{Place, Places},
};

/// An open listener.
#[derive(Debug)]
pub(super) struct Gate {
    signal: Arc<watch::Sender<Signal>>,
    accepting: JoinHandle<()>,
}

impl Gate {
    pub(super) fn open(listener: Listener, terms: Terms, most: usize) -> Self {
        let signal = Arc::new(watch::Sender::new(Signal::default()));
        let acceptor = Acceptor {
            terms,
            places: Places::new(most),
            newcomer: None,
            signal: Arc::clone(&signal),
            connections: JoinSet::new(),
            told_at: None,
        };
        Self {
            accepting: tokio::spawn(acceptor.run(listener)),
            signal,
        }
    }

    /// Stops accepting, and has each connection end after the request it is at.
    pub(super) fn stop(&self) {
        self.signal
            .send_modify(|signal| signal.stopping = Some(Instant::now()));
    }

    /// Waits until all connections have ended.
    pub(super) async fn closed(self) {
        // A panic was reported by tokio's own hook.
        let _ = self.accepting.await;
    }
}

struct Acceptor {
    terms: Terms,
    places: Arc<Places>,
    /// A connection that has no place yet. Whose it is decides who makes room for it, so it is accepted first.
    newcomer: Option<Arrived>,
    signal: Arc<watch::Sender<Signal>>,
    connections: JoinSet<()>,
    /// When it was last said that connections cannot be accepted.
    told_at: Option<Instant>,
}

impl Acceptor {
    async fn run(mut self, listener: Listener) {
        let mut signal = self.signal.subscribe();
        let stopping = async move {
            // The sender is held below.
            let _ = signal.wait_for(|signal| signal.stopping.is_some()).await;
        };
        tokio::select! {
            () = self.accept(&listener) => {}
            () = stopping => {}
        }
        self.accept_queued(&listener);
        drop(listener);
        while self.connections.join_next().await.is_some() {}
    }

    async fn accept(&mut self, listener: &Listener) {
        loop {
            match poll_fn(|cx| listener.poll_accept(cx)).await {
                Ok(arrived) => {
                    let owner = arrived.owner();
                    self.newcomer = Some(arrived);
                    let place = self.place(owner).await;
                    if let Some(arrived) = self.newcomer.take() {
                        self.serve(arrived, place);
                    }
                }
                Err(error) if is_the_clients(&error) => {}
                Err(error) => self.pause(&error).await,
            }
            while self.connections.try_join_next().is_some() {}
        }
    }

    /// What the system has accepted already is not to be reset.
    fn accept_queued(&mut self, listener: &Listener) {
        if let Some(arrived) = self.newcomer.take() {
            self.serve_beyond(arrived);
        }
        while !self.places.are_full() {
            match listener.accept_queued() {
                Ok(arrived) => self.serve_beyond(arrived),
                Err(error) if is_the_clients(&error) => {}
                Err(_) => return,
            }
        }
    }

    fn serve_beyond(&mut self, arrived: Arrived) {
        let waiting = Arc::new(Waiting::new(Instant::now()));
        let place = self.places.force(arrived.owner(), waiting);
        self.serve(arrived, place);
    }

    fn serve(&mut self, arrived: Arrived, place: Place) {
        let (terms, signal) = (self.terms.clone(), self.signal.subscribe());
        self.connections
            .spawn(connection::serve(arrived, place, terms, signal));
    }

    async fn place(&mut self, owner: Owner) -> Place {
        if self.places.are_full() {
            self.crowded(true);
            self.tell(
                "all connections are in use: each ends with its answer, and those that wait for their \
                 client are closed",
            );
        }
        let waiting = Arc::new(Waiting::new(Instant::now()));
        let place = self.places.enter(owner, waiting).await;
        let were = self.signal.borrow().crowded;
        self.crowded(self.places.are_crowded(were));
        place
    }

    /// After an error that is the system's, such as too many open files, the next try would fail, too.
    async fn pause(&mut self, error: &io::Error) {
        self.crowded(true);
        self.tell(&format!("connections cannot be accepted: {error}"));
        sleep(AFTER_ERROR).await;
    }

    fn crowded(&self, crowded: bool) {
        self.signal.send_if_modified(|signal| {
            let changes = signal.crowded != crowded;
            signal.crowded = crowded;
            changes
        });
    }

    fn tell(&mut self, problem: &str) {
        let now = Instant::now();
        if self.told_at.is_none_or(|told| told + ONCE_A_MINUTE <= now) {
            self.told_at = Some(now);
            warn!("{problem}");
        }
    }
}

/// Whether accepting failed because the client was gone.
fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

const AFTER_ERROR: Duration = Duration::from_millis(200);
const ONCE_A_MINUTE: Duration = Duration::from_secs(60);
