//! Tests of the receiver's routes, and of the receiver as a process.

mod message_checks;
mod routes;
mod service;
