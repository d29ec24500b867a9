//! The receiver, by its routes and as a process.

mod proofs;
mod routes;
mod service;
