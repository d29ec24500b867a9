//! Commands that ask a running server: `status`, `history`, `explain`, `watch`.

mod client;

mod history;
mod status;

mod explain;
mod watch;

pub(crate) use self::{
    explain::run as explain, history::run as history, status::run as status, watch::run as watch,
};
