//! Fail-over between DNS servers.
//!
//! hickory's own pool accepts the first response of several servers. A fast SERVFAIL then beats a good answer, and a
//! silent first server uses up the time of all servers. In this crate, the servers are queried one after another.
//! Earlier queries stay in flight, so that a slow answer is still used.
//!
//! A denial is final, as it is for programs that use glibc or musl. A resolver that then used the answer of another
//! server would hide a wrong configuration. A wrong denial removes no address before an answer of another host in the
//! zone confirms the denial (rule 4 of [`crate::set`]).

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use hickory_resolver::{
    net::NetError,
    proto::op::{Message, Query},
};
use tokio::time::sleep;

use super::{
    chain::Chain,
    server::{Server, is_denial, more_telling},
};
use crate::{Answer, Question, ResolveError, ResolveErrorKind};

#[derive(Default)]
pub(super) struct Servers {
    servers: Vec<Arc<Server>>,
    tcp_first: bool,
    why_none: Option<Arc<str>>,
}

impl Servers {
    pub(super) fn new(addresses: &[SocketAddr], tcp_first: bool) -> Self {
        let servers = addresses.iter();
        Self {
            servers: servers
                .map(|address| Arc::new(Server::new(*address, tcp_first)))
                .collect(),
            tcp_first,
            why_none: None,
        }
    }

    /// Creates a list without servers. Each lookup fails with this cause.
    pub(super) fn none(cause: &str) -> Self {
        Self {
            why_none: Some(cause.into()),
            ..Self::default()
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(|server| server.address()).collect()
    }

    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.tcp_first == other.tcp_first && self.addresses() == other.addresses()
    }

    pub(super) async fn resolve(&self, question: &Question) -> Result<Answer, ResolveError> {
        if let Some(why) = &self.why_none {
            return Err(ResolveError::new(ResolveErrorKind::Network).with_cause(why.to_string()));
        }
        let mut chain = Chain::new(question)?;
        loop {
            if let Some(answer) = chain.take(self.ask(chain.query()).await)? {
                return Ok(answer);
            }
        }
    }

    /// Queries the servers in order and returns the first answer or denial.
    pub(super) async fn ask(&self, query: Query) -> Result<Message, NetError> {
        let mut asked = FuturesUnordered::new();
        let mut failure = NetError::NoConnections;
        for server in &self.servers {
            asked.push(Arc::clone(server).ask(query.clone()));
            let silence = sleep(SILENCE);
            tokio::pin!(silence);
            tokio::select! {
                Some(outcome) = asked.next() => match outcome {
                    Err(error) if !is_denial(&error) => failure = more_telling(failure, error),
                    outcome => return outcome,
                },
                () = &mut silence => {}
            }
        }
        while let Some(outcome) = asked.next().await {
            match outcome {
                Err(error) if !is_denial(&error) => failure = more_telling(failure, error),
                outcome => return outcome,
            }
        }
        Err(failure)
    }
}

const SILENCE: Duration = Duration::from_millis(400);
