//! `haproxy:SOCKET:ACL`: an ACL of a running HAProxy, and the file of the ACL, which HAProxy reads when it starts.

use std::{collections::BTreeSet, io, path::PathBuf, sync::Arc, time::Duration};

use ipnet::IpNet;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

use super::{
    file::FileTarget,
    goal::{Goal, Plain, network},
    target::{Change, Mode, Syncing, Target, TargetError},
};

/// Target for an ACL. HAProxy identifies the ACL by the path of its file.
pub(super) struct Haproxy {
    name: String,
    socket: PathBuf,
    acl: String,
    file: FileTarget,
}

impl Haproxy {
    /// Creates the target. `file` writes the file of the ACL in the format `plain`.
    pub(super) fn new(name: String, socket: PathBuf, acl: String, file: FileTarget) -> Self {
        Self {
            name,
            socket,
            acl,
            file,
        }
    }
}

impl Target for Haproxy {
    fn name(&self) -> &str {
        &self.name
    }

    fn sync(&mut self, goal: Arc<Goal>, mode: Mode) -> Syncing<'_> {
        Box::pin(async move {
            // The file is written first, so that a HAProxy that starts before the ACL is replaced reads the new file.
            let (_, content) = self.file.sync_file(goal, mode).await?;
            let wanted = content.members;
            let found = self.show().await?;
            let change = Change::between(&found, &wanted);
            if change.is_none() || mode == Mode::DryRun {
                return Ok(change);
            }
            self.replace(&wanted).await?;
            let written = self.show().await?;
            if written != wanted {
                let problem = format!("the ACL `{}` differs after it was replaced", self.acl);
                return Err(TargetError::new(problem)
                    .with_hint("check that nothing else writes to the ACL"));
            }
            Ok(change)
        })
    }
}

impl Haproxy {
    async fn show(&self) -> Result<BTreeSet<IpNet>, TargetError> {
        let output = self.command(&format!("show acl {}", self.acl)).await?;
        // Each line contains the memory address of a pattern and the pattern itself.
        let patterns = output
            .lines()
            .filter_map(|line| line.split_whitespace().nth(1));
        Ok(patterns.filter_map(network).collect())
    }

    /// Replaces the content of the ACL in one step. Until the commit, requests are checked against the old version.
    async fn replace(&self, members: &BTreeSet<IpNet>) -> Result<(), TargetError> {
        let acl = &self.acl;
        let prepared = self.command(&format!("prepare acl {acl}")).await?;
        let version = prepared.rsplit(": ").next().unwrap_or_default().trim();
        let Ok(version) = version.parse::<u64>() else {
            return Err(self.refused(&prepared));
        };
        let members: Vec<_> = members.iter().copied().map(Plain).collect();
        // A line of commands must fit into HAProxy's buffer of 16 KiB. The members cannot be sent as a payload, which
        // HAProxy accepts only for maps.
        for some in members.chunks(MEMBERS_A_COMMAND) {
            let commands: Vec<_> = some
                .iter()
                .map(|member| format!("add acl @{version} {acl} {member}"))
                .collect();
            let answer = self.command(&commands.join(";")).await?;
            if !answer.trim().is_empty() {
                return Err(self.refused(&answer));
            }
        }
        let answer = self
            .command(&format!("commit acl @{version} {acl}"))
            .await?;
        match answer.trim().is_empty() {
            true => Ok(()),
            false => Err(self.refused(&answer)),
        }
    }

    /// Sends a command, and returns HAProxy's response.
    async fn command(&self, command: &str) -> Result<String, TargetError> {
        let mut answer = Vec::new();
        let exchange = async {
            let mut stream = UnixStream::connect(&self.socket).await?;
            stream.write_all(format!("{command}\n").as_bytes()).await?;
            // HAProxy closes the connection after one line of commands.
            (&mut stream)
                .take(MAX_ANSWER)
                .read_to_end(&mut answer)
                .await
        };
        let socket = self.socket.display();
        match timeout(TIME_LIMIT, exchange).await {
            Ok(Ok(length)) if length as u64 == MAX_ANSWER => Err(TargetError::new(format!(
                "the answer of HAProxy at `{socket}` is too long"
            ))),
            Ok(Ok(_)) => {
                let text = String::from_utf8_lossy(&answer).into_owned();
                let is_error = ["Unknown ", "Permission denied", "Can't find", "Invalid "]
                    .iter()
                    .any(|start| text.trim_start().starts_with(start));
                match is_error {
                    true => Err(self.refused(&text)),
                    false => Ok(text),
                }
            }
            Ok(Err(error)) => {
                let problem = format!("cannot reach HAProxy at `{socket}`: {error}");
                let hint = match error.kind() {
                    io::ErrorKind::PermissionDenied => {
                        "allow this process to use the socket, with `user`, `group` and `mode` of `stats socket`"
                    }
                    _ => {
                        "start HAProxy with `stats socket PATH level admin`; the ACL's file is already written"
                    }
                };
                Err(TargetError::new(problem).with_hint(hint))
            }
            Err(_) => Err(TargetError::new(format!(
                "HAProxy at `{socket}` has not answered within {TIME_LIMIT:?}"
            ))),
        }
    }

    fn refused(&self, answer: &str) -> TargetError {
        let first = answer.trim().lines().next().unwrap_or_default();
        let hint = match first.contains("ermission") {
            true => "give the socket `level admin`".to_owned(),
            false => format!("load the ACL with `acl NAME src -f {}`", self.acl),
        };
        TargetError::new(format!("HAProxy refused a command: `{first}`")).with_hint(hint)
    }
}

const TIME_LIMIT: Duration = Duration::from_secs(5);
const MAX_ANSWER: u64 = 16 << 20;
const MEMBERS_A_COMMAND: usize = 40;
