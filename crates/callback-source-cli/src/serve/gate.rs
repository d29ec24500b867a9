//! A listener, and how many connections it lets in.
//!
//! When all places are taken, nothing more is accepted (newcomers wait in the system's queue), and
//! connections whose client has kept the server waiting for a second are closed, so that slow clients
//! can delay others by about that, and never lock them out.

use std::{future::poll_fn, io, sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep},
};
use tracing::warn;

use super::{
    answer::{App, Door},
    connection::{self, Signal},
    listener::{Arrived, Listener},
};

/// An open listener.
#[derive(Debug)]
pub(super) struct Gate {
    signal: Arc<watch::Sender<Signal>>,
    accepting: JoinHandle<()>,
}

impl Gate {
    pub(super) fn open(listener: Listener, app: Arc<App>, door: Door, most: usize) -> Self {
        let signal = Arc::new(watch::Sender::new(Signal::default()));
        let most = most.min(Semaphore::MAX_PERMITS);
        let acceptor = Acceptor {
            app,
            door,
            most,
            places: Arc::new(Semaphore::new(most)),
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
    app: Arc<App>,
    door: Door,
    most: usize,
    places: Arc<Semaphore>,
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
            let place = self.place().await;
            match poll_fn(|cx| listener.poll_accept(cx)).await {
                Ok(accepted) => self.serve(accepted, place),
                Err(error) if is_the_clients(&error) => {}
                Err(error) => self.pause(&error).await,
            }
            while self.connections.try_join_next().is_some() {}
        }
    }

    /// What the system has accepted already is not to be reset.
    fn accept_queued(&mut self, listener: &Listener) {
        while let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            match listener.accept_queued() {
                Ok(accepted) => self.serve(accepted, place),
                Err(error) if is_the_clients(&error) => {}
                Err(_) => return,
            }
        }
    }

    fn serve(&mut self, arrived: Arrived, place: OwnedSemaphorePermit) {
        let app = Arc::clone(&self.app);
        let connection = connection::serve(arrived, app, self.door, self.signal.subscribe());
        self.connections.spawn(async move {
            connection.await;
            drop(place);
        });
    }

    /// Waits for a place, and makes room if there is none.
    async fn place(&mut self) -> OwnedSemaphorePermit {
        loop {
            let places = Arc::clone(&self.places);
            if let Ok(place) = places.clone().try_acquire_owned() {
                if places.available_permits() >= self.most / 4 {
                    self.crowded(false);
                }
                return place;
            }
            self.crowded(true);
            self.tell("all connections are in use: those that wait for their client are closed");
            if let Ok(place) = places.acquire_owned().await {
                return place;
            }
        }
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
