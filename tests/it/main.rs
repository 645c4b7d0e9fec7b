//! The one integration crate: the rules of the house, and the real binary from outside.

mod source;
mod tidy;
