//! The command as a process, against a DNS server in the process of the tests.

mod setup;

mod server;

mod check;
mod command;
mod config;
mod connections;
#[cfg(target_os = "linux")]
mod firewall;
#[cfg(unix)]
mod follow;
mod forward_auth;
mod journal;
mod log;
mod lookup;
mod man;
mod metrics;
mod page;
mod proxies;
mod real_dns;
mod reload;
mod serve;
#[cfg(target_os = "linux")]
mod service_manager;
mod signature;
mod stopping;
