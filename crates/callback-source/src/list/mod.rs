//! The list that a service queries, kept up to date by one task.

mod answer_cache;
mod builder;
mod changes;
mod clock;
mod handle;
mod log;
mod on_demand;
mod refresher;
mod refused;
mod schedule;
mod shared;
pub(crate) mod state_file;
mod state_writer;

pub use {
    builder::{AllowListBuilder, TtlBoundsError},
    changes::Changes,
    handle::AllowList,
    refresher::Refresher,
};
