//! The tools.

use std::{
    io::{self, Write},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rmcp::{
    ErrorData, Json, RoleServer, ServerHandler,
    handler::server::{router::tool::ToolRouter, wrapper::Parameters},
    model::{
        CacheScope, Implementation, ListResourcesResult, PaginatedRequestParams,
        ProgressNotificationParam, ReadResourceRequestParams, ReadResourceResponse,
        ReadResourceResult, Resource, ResourceContents, ServerCapabilities, ServerConfig,
    },
    schemars::JsonSchema,
    service::RequestContext,
    tool, tool_handler, tool_router,
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

const ECHO_BYTES_MAX: usize = 64 * 1024;
const LINES_MAX: u32 = 100_000;
const SLEEP_SECS_MAX: f64 = 3_600.0;
const MEBIBYTES_MAX: u32 = 256;
const README_URI: &str = "demo://readme";
const README: &str = "This is MiniMCP's demo server. Try the tool echo, then sleep with progress, log and look at \
the instance's log, crash and watch it being started again.";

/// The server; one for each process.
pub struct Demo {
    tools: ToolRouter<Self>,
    held: Mutex<Vec<u8>>,
}

impl Default for Demo {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Echo {
    /// What to say back, at most 65,536 bytes.
    #[schemars(length(max = 65_536))]
    text: String,
}

/// The time now.
#[derive(Serialize, JsonSchema)]
struct Now {
    /// UTC, as RFC 3339.
    utc: String,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    unix_ms: i64,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Log {
    /// The line to write; line breaks in it make several.
    #[schemars(length(max = 65_536))]
    #[serde(default = "hello")]
    text: String,
    /// How often to write it, 1 to 100,000; from 2 on each one gets its number.
    #[schemars(range(min = 1, max = 100_000))]
    #[serde(default = "once")]
    lines: u32,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Sleep {
    /// How long, 0 to 3,600 seconds.
    #[schemars(range(min = 0.0, max = 3_600.0))]
    seconds: f64,
    /// In how many equal steps, each one told as progress, 1 to 1,000.
    #[schemars(range(min = 1, max = 1_000))]
    #[serde(default = "ten")]
    steps: u32,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Crash {
    /// The exit code.
    #[serde(default = "crash_code")]
    code: u8,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Memory {
    /// How much to fill, 0 to 256 MiB.
    #[schemars(range(min = 0, max = 256))]
    mebibytes: u32,
    /// Whether to keep it until the next call (0 MiB frees it); otherwise it is freed at once.
    #[serde(default)]
    hold: bool,
}

/// What the server holds.
#[derive(Serialize, JsonSchema)]
struct Held {
    /// What was filled by this call, in MiB.
    filled_mebibytes: u32,
    /// What is held now, in MiB.
    held_mebibytes: u32,
}

fn hello() -> String {
    "hello from the demo server".to_owned()
}

fn once() -> u32 {
    1
}

fn ten() -> u32 {
    10
}

fn crash_code() -> u8 {
    1
}

#[tool_router(router = tools)]
impl Demo {
    /// A server that holds nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            tools: minimcp_rest::without_number_formats(Self::tools()),
            held: Mutex::new(Vec::new()),
        }
    }

    #[tool(
        description = "Says back the text it is given.",
        annotations(
            title = "Echo",
            read_only_hint = true,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = false
        )
    )]
    fn echo(&self, Parameters(Echo { text }): Parameters<Echo>) -> Result<String, String> {
        if text.len() > ECHO_BYTES_MAX {
            return Err(format!("text must be at most {ECHO_BYTES_MAX} bytes"));
        }
        Ok(text)
    }

    #[tool(
        description = "Tells the time of this machine in UTC.",
        annotations(
            title = "Time",
            read_only_hint = true,
            destructive_hint = false,
            idempotent_hint = false,
            open_world_hint = false
        )
    )]
    fn time(&self) -> Json<Now> {
        let now = jiff::Timestamp::now();
        Json(Now {
            utc: format!("{now:.3}"),
            unix_ms: now.as_millisecond(),
        })
    }

    #[tool(
        description = "Writes lines to stderr, which MiniMCP keeps as the instance's log.",
        annotations(
            title = "Log",
            read_only_hint = false,
            destructive_hint = false,
            idempotent_hint = false,
            open_world_hint = false
        )
    )]
    fn log(&self, Parameters(Log { text, lines }): Parameters<Log>) -> Result<String, String> {
        if !(1..=LINES_MAX).contains(&lines) {
            return Err(format!("lines must be 1 to {LINES_MAX}"));
        }
        if text.len() > ECHO_BYTES_MAX {
            return Err(format!("text must be at most {ECHO_BYTES_MAX} bytes"));
        }
        let write = || -> io::Result<()> {
            let mut stderr = io::BufWriter::new(io::stderr().lock());
            if lines == 1 {
                writeln!(stderr, "{text}")?;
            } else {
                for number in 1..=lines {
                    writeln!(stderr, "{text} ({number})")?;
                }
            }
            stderr.flush()
        };
        write().map_err(|error| format!("stderr cannot be written: {error}"))?;
        Ok(format!("wrote {lines} to stderr"))
    }

    #[tool(
        description = "Sleeps so many seconds and tells its progress at each step, if the request has a progress token. \
                       Can be cancelled.",
        annotations(
            title = "Sleep",
            read_only_hint = true,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = false
        )
    )]
    async fn sleep(
        &self,
        Parameters(Sleep { seconds, steps }): Parameters<Sleep>,
        context: RequestContext<RoleServer>,
    ) -> Result<String, String> {
        if !(0.0..=SLEEP_SECS_MAX).contains(&seconds) {
            return Err(format!("seconds must be 0 to {SLEEP_SECS_MAX}"));
        }
        if !(1..=1_000).contains(&steps) {
            return Err("steps must be 1 to 1000".to_owned());
        }
        let started = Instant::now();
        let token = context.meta.get_progress_token();
        for step in 1..=steps {
            let until =
                started + Duration::from_secs_f64(seconds * f64::from(step) / f64::from(steps));
            tokio::select! {
                () = context.ct.cancelled() => return Err("cancelled".to_owned()),
                () = tokio::time::sleep_until(until) => {}
            }
            if let Some(token) = &token {
                let progress = ProgressNotificationParam::new(token.clone(), f64::from(step))
                    .with_total(f64::from(steps))
                    .with_message(format!("step {step} of {steps}"));
                // A client that went away is told nothing, and the sleep ends by itself.
                let _gone = context.peer.notify_progress(progress).await;
            }
        }
        Ok(format!("slept {seconds} s"))
    }

    #[tool(
        description = "Ends the server at once with this exit code, without an answer. MiniMCP starts it again.",
        annotations(
            title = "Crash",
            read_only_hint = false,
            destructive_hint = true,
            idempotent_hint = false,
            open_world_hint = false
        )
    )]
    fn crash(&self, Parameters(Crash { code }): Parameters<Crash>) -> String {
        eprintln!("demo: crashing with code {code}, as asked");
        std::process::exit(i32::from(code))
    }

    #[tool(
        description = "Fills memory, up to 256 MiB, and holds it or frees it at once.",
        annotations(
            title = "Memory",
            read_only_hint = false,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = false
        )
    )]
    fn memory(
        &self,
        Parameters(Memory { mebibytes, hold }): Parameters<Memory>,
    ) -> Result<Json<Held>, String> {
        if mebibytes > MEBIBYTES_MAX {
            return Err(format!("mebibytes must be 0 to {MEBIBYTES_MAX}"));
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        // First what was held goes, so that the bound holds for both together.
        *held = Vec::new();
        let bytes = (mebibytes as usize) << 20;
        let mut filled = Vec::new();
        filled
            .try_reserve_exact(bytes)
            .map_err(|_| format!("there is no room for {mebibytes} MiB"))?;
        // Not zeros: those would be pages that the kernel need not hold.
        filled.resize(bytes, 0xA5);
        if hold {
            *held = std::hint::black_box(filled);
        } else {
            drop(std::hint::black_box(filled));
        }
        Ok(Json(Held {
            filled_mebibytes: mebibytes,
            held_mebibytes: u32::try_from(held.len() >> 20).unwrap_or(u32::MAX),
        }))
    }
}

#[tool_handler(router = self.tools)]
impl ServerHandler for Demo {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_resources()
            .build();
        ServerConfig::new(capabilities)
            .with_server_info(Implementation::new(
                "minimcp-demo",
                env!("CARGO_PKG_VERSION"),
            ))
            .with_instructions(README)
    }

    async fn list_resources(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        Ok(ListResourcesResult::with_all_items(vec![Resource::new(
            README_URI, "readme",
        )]))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        if request.uri != README_URI {
            let message = format!("there is no such resource; there is {README_URI}");
            return Err(ErrorData::resource_not_found(message, None));
        }
        let contents = vec![ResourceContents::text(README, README_URI)];
        Ok(ReadResourceResult::new(contents)
            .with_ttl_ms(0)
            .with_cache_scope(CacheScope::Private)
            .into())
    }
}
