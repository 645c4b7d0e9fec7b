//! Serving MCP over stdin and stdout.

use std::process::ExitCode;

use rmcp::{
    RoleServer, Service, ServiceExt,
    service::{QuitReason, ServerInitializeError},
    transport::{IntoTransport, io::stdio_pipes},
};

use crate::tool_list::{ListWriter, WrittenList};

/// Serves MCP on stdin and stdout until stdin ends, on a runtime of this one thread. Exit code 0 when the client
/// closed stdin, as the MCP specification ends a stdio server; 1 with a line on stderr otherwise.
#[must_use]
pub fn serve<S: Service<RoleServer>>(server: S) -> ExitCode {
    serve_over(server, stdio_pipes)
}

/// As [`serve`]; the list of tools is answered with `list`, see [`crate::Tools::write_list`].
#[must_use]
pub fn serve_with_list<S: Service<RoleServer>>(server: S, list: WrittenList) -> ExitCode {
    serve_over(server, || {
        let (reader, writer) = stdio_pipes();
        (reader, ListWriter::new(writer, list))
    })
}

/// `transport` is called within the runtime.
fn serve_over<S, T, E, A>(server: S, transport: impl FnOnce() -> T) -> ExitCode
where
    S: Service<RoleServer>,
    T: IntoTransport<RoleServer, E, A>,
    E: std::error::Error + Send + Sync + 'static,
{
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(async {
        let running = match server.serve(transport()).await {
            Ok(running) => running,
            Err(ServerInitializeError::ConnectionClosed(_)) => return ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("the MCP handshake failed: {error}");
                return ExitCode::FAILURE;
            }
        };
        match running.waiting().await {
            Ok(QuitReason::JoinError(error)) | Err(error) => {
                eprintln!("the server failed: {error}");
                ExitCode::FAILURE
            }
            Ok(_) => ExitCode::SUCCESS,
        }
    });
    // A read of a terminal's stdin cannot be taken back; waiting for it would hang the exit.
    runtime.shutdown_background();
    code
}
