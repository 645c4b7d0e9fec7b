//! The `minimcp` program.
fn main() {}
