//! Serving MCP over stdin and stdout.

use std::process::ExitCode;

use rmcp::{
    RoleServer, Service, ServiceExt,
    service::{QuitReason, ServerInitializeError},
    transport::io::stdio_pipes,
};

/// Serves MCP on stdin and stdout until stdin ends, on a runtime of this one thread. Exit code 0 when the client
/// closed stdin, as the MCP specification ends a stdio server; 1 with a line on stderr otherwise.
#[must_use]
pub fn serve<S: Service<RoleServer>>(server: S) -> ExitCode {
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
        let running = match server.serve(stdio_pipes()).await {
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
