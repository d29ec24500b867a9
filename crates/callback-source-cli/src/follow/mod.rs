//! Targets that are kept equal to the set of admitted addresses: firewalls, proxies and files.
//!
//! A [`Goal`](goal::Goal) is computed from a snapshot of the list and the current time. A [`Target`] makes its content
//! equal to the goal. The [`Follower`] updates each target whenever a changed set is published, and every 2 s.
//!
//! 1. **Windows.** A member expires at the end of its address's window. In a target with timeouts, it expires even if
//!    this process has ended.
//! 2. **Undecided.** At the start, nothing is written until every host has been looked up or restored from the state
//!    file. While a host is unresolved, addresses from before the start of this process are kept, for the longest
//!    window at most.
//! 3. **Empty.** The follower empties a target only with `--allow-empty`, but elements with a timeout still expire.
//! 4. **Others.** Content of other programs is left unchanged. Changes that they make to the follower's content are
//!    undone.

use crate::args;

mod goal;

#[cfg(test)]
mod testing;

mod process;

mod target;

mod content;

mod apache;
mod caddy;
mod json;
mod kubernetes;
mod nginx;
mod plain;
mod traefik;

mod formats;

mod file;

#[cfg(unix)]
mod haproxy;

mod nft_state;

mod nft_script;

mod nft_plan;

mod nft_ruleset;
mod nftables;

mod command;
mod status;

mod follower;
mod once;

use self::{file::FileTarget, nftables::Nftables};
pub(crate) use self::{
    follower::Follower,
    nft_ruleset::ruleset,
    once::once,
    status::{FollowStatus, TargetStatus},
    target::{Mode, Target},
};

/// Returns the targets with these names.
pub(crate) fn targets(names: &[args::Target]) -> Vec<Box<dyn Target>> {
    names.iter().map(new_target).collect()
}

fn new_target(name: &args::Target) -> Box<dyn Target> {
    let text = name.to_string();
    match name {
        args::Target::Nftables { table, set } => Box::new(Nftables::new(text, table, set)),
        #[cfg(unix)]
        args::Target::Haproxy { socket, acl } => {
            let format = formats::writer(args::FileFormat::Plain);
            let file = FileTarget::new(text.clone(), acl.clone(), format);
            let acl = acl.display().to_string();
            Box::new(haproxy::Haproxy::new(text, socket.clone(), acl, file))
        }
        args::Target::File { format, path } => {
            let format = formats::writer(*format);
            Box::new(FileTarget::new(text, path.clone(), format))
        }
    }
}
