//! End-to-end tests.

mod dns_server;
mod http_client;
