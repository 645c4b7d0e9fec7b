//! In-process tests over real pipes.
