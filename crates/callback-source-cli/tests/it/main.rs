//! The command as a process, against a DNS server in this one.

mod setup;

mod server;

mod check;
mod command;
mod connections;
#[cfg(target_os = "linux")]
mod firewall;
#[cfg(unix)]
mod follow;
mod forward_auth;
mod log;
mod lookup;
mod module_order;
mod proxies;
mod real_dns;
mod serve;
mod signature;
mod stopping;
