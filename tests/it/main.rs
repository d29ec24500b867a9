//! End-to-end tests that span several modules, over real sockets or in paused time.

mod answers;
mod common;
mod connections;
mod dns_failover;
mod dns_faults;
mod dns_forms;
mod dns_system_conf;
mod docs;
mod environments;
mod life_cycle;
mod outage;
mod peers;
#[cfg(target_os = "linux")]
mod proxies;
mod real_dns;
mod refused_then_listed;
#[cfg(target_os = "linux")]
mod replay_store;
mod service;
#[cfg(target_os = "linux")]
mod signed;
mod state_file;
mod tagging;
mod unlisted_peers;
mod warnings;
mod wiring;
