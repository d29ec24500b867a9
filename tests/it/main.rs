//! End-to-end tests.

mod answers;
mod dns_server;
mod http_client;
mod outage;
mod peers;
