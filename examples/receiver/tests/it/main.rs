//! The receiver, by its routes and as a process.

mod message_checks;
mod routes;
mod service;
