//! Placeholder until the ratio is measured.
fn main() {}
