//! What the built-in MCP servers share: serving over stdio, schemas without Rust in them, and an HTTP client that is careful with secrets, sizes,
//! redirects and retries and whose errors tell a language model what to do next.

mod call;
mod client;
mod download;
mod error;
mod refusal;
mod schemas;
mod settings;
mod stdio;
mod stream;
mod tool_call;
mod tool_list;

pub use call::{Answer, Body, Call};
pub use client::{Client, ClientSpec};
pub use download::Tail;
pub use error::{Error, Failure, Trouble};
pub use refusal::safe_text;
pub use reqwest::{
    Method,
    header::{self, HeaderName, HeaderValue},
};
pub use schemas::{joined, without_number_formats};
pub use settings::{BaseUrl, InvalidBaseUrl, Secret, path_segment, variable};
pub use stdio::{serve, serve_with_list};
pub use tool_call::{call_tool, step};
pub use tool_list::{Tools, WrittenList};
