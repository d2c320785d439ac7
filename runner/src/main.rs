//! The program `ingest`.
fn main() {}
