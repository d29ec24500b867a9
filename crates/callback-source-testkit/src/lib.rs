//! A payment provider in the process, to test a service behind `callback-source`.

#[cfg(feature = "dns-server")]
pub mod dns;
mod resolver;

pub use resolver::{Outcome, ScriptedResolver};
