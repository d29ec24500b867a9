//! End-to-end tests.

mod dns_server;
mod http_client;

#[cfg(target_os = "linux")]
mod proxies;
