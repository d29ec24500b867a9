//! The receiver, by its routes and as a process.

mod routes;
mod service;
