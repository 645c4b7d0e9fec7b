//! What the bench starts of this program beside the daemon: servers that do next to nothing, and the floor.
//! `minimcp bench-part null`, `minimcp bench-part flood LINES` and `minimcp bench-part floor COMMAND…`.

use std::{
    ffi::OsString,
    io::{self, BufRead, Write},
    process::ExitCode,
};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::floor;

/// The word before their names.
pub const WORD: &str = "bench-part";

#[derive(Deserialize)]
pub(super) struct Message<'a> {
    #[serde(borrow)]
    pub(super) id: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) method: Option<&'a str>,
    #[serde(borrow)]
    pub(super) params: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) result: Option<&'a RawValue>,
}

/// Runs a part until its stdin ends. The floor starts a runtime of its own, so this must come before any other.
#[must_use]
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let words: Vec<String> = arguments
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["null"] => serve_null(|| Ok(())),
        ["flood", lines] => match lines.parse() {
            Ok(lines) => serve_null(|| flood(lines)),
            Err(_) => Err(io::Error::other("flood needs a number of lines")),
        },
        ["floor", program, ref arguments @ ..] => floor::serve(program, arguments),
        _ => Err(io::Error::other("null, flood LINES or floor COMMAND…")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("minimcp {WORD}: {error}");
            ExitCode::from(2)
        }
    }
}

/// The server that does next to nothing; at each call it does `work` before it answers.
fn serve_null(work: impl Fn() -> io::Result<()>) -> io::Result<()> {
    let stdin = io::stdin().lock();
    let mut stdout = io::stdout().lock();
    for line in stdin.lines() {
        let line = line?;
        let message: Message<'_> = serde_json::from_str(&line)?;
        let Some(id) = message.id else { continue };
        let (key, value) = match message.method {
            Some("initialize") => (
                "result",
                r#"{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"null","version":"1"}}"#,
            ),
            Some("tools/list") => (
                "result",
                r#"{"tools":[{"name":"echo","inputSchema":{"type":"object"}}]}"#,
            ),
            Some("tools/call") => {
                work()?;
                ("result", r#"{"content":[{"type":"text","text":"x"}]}"#)
            }
            Some("ping") => ("result", "{}"),
            _ => ("error", r#"{"code":-32601,"message":"no such method"}"#),
        };
        let answer = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"{key}\":{value}}}\n");
        stdout.write_all(answer.as_bytes())?;
        stdout.flush()?;
    }
    Ok(())
}

/// What a child writes to its log: a hundred characters, as servers' lines are.
pub(super) fn log_line(number: usize) -> String {
    format!(
        "2026-11-27T02:00:00.000Z  INFO handled request={number:08} path=/api/v1/items status=200 took=1234us ok"
    )
}

/// Writes so many lines to stderr.
fn flood(lines: usize) -> io::Result<()> {
    let mut out = io::BufWriter::with_capacity(64 << 10, io::stderr().lock());
    for number in 0..lines {
        writeln!(out, "{}", log_line(number))?;
    }
    out.flush()
}
