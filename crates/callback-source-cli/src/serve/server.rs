//! Listener with its connections. Each connection that is served has one of the [`permits`](super::permits).
//!
//! A connection is accepted before it has a permit, because its address determines which other connection is displaced.
//! At most one connection waits in this way. Further new connections stay in the system's queue, and use no memory of
//! this process.

use std::{io, sync::Arc};

use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep},
};
use tracing::warn;

use super::{
    connection::{self, Settings},
    idle::{IdleTimer, ListenerState},
    listener::{ACCEPT_PAUSE, Accepted, Listener, is_of_client},
    owner::Owner,
    permits::{Permit, Permits},
};
use crate::log::OncePerMinute;

/// A running listener with its connections.
#[derive(Debug)]
pub(super) struct Server {
    state: Arc<watch::Sender<ListenerState>>,
    accepting: JoinHandle<()>,
}

impl Server {
    pub(super) fn start(listener: Listener, settings: Settings, max_connections: usize) -> Self {
        let state = Arc::new(watch::Sender::new(ListenerState::default()));
        let acceptor = Acceptor {
            settings,
            permits: Permits::new(max_connections),
            newcomer: None,
            state: Arc::clone(&state),
            connections: JoinSet::new(),
            warnings: OncePerMinute::default(),
        };
        Self {
            accepting: tokio::spawn(acceptor.run(listener)),
            state,
        }
    }

    /// Stops accepting connections. Each open connection ends with its next response.
    pub(super) fn stop(&self) {
        self.state
            .send_modify(|state| state.stopping = Some(Instant::now()));
    }

    /// Waits until all connections have ended.
    pub(super) async fn closed(self) {
        // If the task panicked, the panic hook has already reported the panic.
        let _ = self.accepting.await;
    }
}

struct Acceptor {
    settings: Settings,
    permits: Arc<Permits>,
    /// Connection that waits for a permit. It is accepted without a permit, because its owner determines which other
    /// connection is displaced.
    newcomer: Option<Accepted>,
    state: Arc<watch::Sender<ListenerState>>,
    connections: JoinSet<()>,
    warnings: OncePerMinute,
}

impl Acceptor {
    async fn run(mut self, listener: Listener) {
        let mut state = self.state.subscribe();
        let stopping = async move {
            // The wait cannot fail, since `self` keeps the sender.
            let _ = state.wait_for(|state| state.stopping.is_some()).await;
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
            match listener.accept().await {
                Ok(accepted) => {
                    let owner = accepted.owner();
                    self.newcomer = Some(accepted);
                    let permit = self.acquire_permit(owner).await;
                    if let Some(accepted) = self.newcomer.take() {
                        self.serve(accepted, permit);
                    }
                }
                Err(error) => self.pause(&error).await,
            }
            while self.connections.try_join_next().is_some() {}
        }
    }

    /// Serves the connections in the system's queue while permits are left. The system would reset these connections
    /// when the listener closes.
    fn accept_queued(&mut self, listener: &Listener) {
        if let Some(accepted) = self.newcomer.take() {
            self.serve_beyond_limit(accepted);
        }
        while !self.permits.none_left() {
            match listener.accept_queued() {
                Ok(accepted) => self.serve_beyond_limit(accepted),
                Err(error) if is_of_client(&error) => {}
                Err(_) => return,
            }
        }
    }

    fn serve_beyond_limit(&mut self, accepted: Accepted) {
        let timer = Arc::new(IdleTimer::new(Instant::now()));
        let permit = self.permits.acquire_beyond_limit(accepted.owner(), timer);
        self.serve(accepted, permit);
    }

    fn serve(&mut self, accepted: Accepted, permit: Permit) {
        let (settings, state) = (self.settings.clone(), self.state.subscribe());
        self.connections
            .spawn(connection::serve(accepted, permit, settings, state));
    }

    async fn acquire_permit(&self, owner: Owner) -> Permit {
        if self.permits.none_left() {
            self.set_crowded(true);
            self.warn_limited(
                "all connections are in use: each ends with its next response, and connections that \
                 wait for their clients are closed",
            );
        }
        let timer = Arc::new(IdleTimer::new(Instant::now()));
        let permit = self.permits.acquire(owner, timer).await;
        let was_crowded = self.state.borrow().crowded;
        self.set_crowded(self.permits.are_crowded(was_crowded));
        permit
    }

    /// Waits after a system error.
    async fn pause(&self, error: &io::Error) {
        self.set_crowded(true);
        self.warn_limited(&format!("connections cannot be accepted: {error}"));
        sleep(ACCEPT_PAUSE).await;
    }

    fn set_crowded(&self, crowded: bool) {
        self.state.send_if_modified(|state| {
            let changes = state.crowded != crowded;
            state.crowded = crowded;
            changes
        });
    }

    fn warn_limited(&self, problem: &str) {
        if self.warnings.admits(Instant::now()) {
            warn!("{problem}");
        }
    }
}

/// Maximum number of connections to the admin listener. It is separate from the maximum for callbacks, so that
/// callers cannot shut out an operator.
pub(super) const ADMIN_CONNECTIONS: usize = 64;
