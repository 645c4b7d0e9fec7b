//! Connections to a server elsewhere: TCP by whoever decides where it may lead to, TLS with the host's certificates.

use std::{
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};
use rustls_platform_verifier::Verifier;
use tokio::net::TcpStream;
use tower::Service;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Makes one TCP connection to the server, or says why not.
pub type Dial = Arc<dyn Fn() -> BoxFuture<'static, Result<TcpStream, BoxError>> + Send + Sync>;

/// What TLS trusts: the certificates of this host, and those in `ca_file` (PEM). Reads files, so not for an async
/// thread.
///
/// # Errors
/// In one sentence: the file cannot be read, or holds no certificate; or this host has none.
pub fn trusted(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let mut own = Vec::new();
    if let Some(file) = ca_file {
        let cannot = |error: rustls::pki_types::pem::Error| {
            let file = file.display();
            format!("remote.ca_file cannot be read: {file}: {error}")
        };
        for certificate in CertificateDer::pem_file_iter(file).map_err(cannot)? {
            own.push(certificate.map_err(cannot)?);
        }
        if own.is_empty() {
            let file = file.display();
            return Err(format!(
                "remote.ca_file holds no certificate in PEM: {file}"
            ));
        }
    }
    let provider = Arc::new(ring::default_provider());
    let text =
        |error: rustls::Error| format!("the certificates of this host cannot be used: {error}");
    let verifier = Verifier::new_with_extra_roots(own, Arc::clone(&provider)).map_err(text)?;
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder
        .with_safe_default_protocol_versions()
        .map_err(text)?;
    let mut config = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The TCP part, as the TLS part wants it. The address is the dialer's own: what the URI says was settled before.
#[derive(Clone)]
pub(super) struct TcpOnly(pub(super) Dial);

impl Service<Uri> for TcpOnly {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let dialing = (self.0)();
        Box::pin(async move { Ok(TokioIo::new(dialing.await?)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("ca.pem");
        let text = trusted(Some(&file)).expect_err("there is none");
        assert!(text.contains("remote.ca_file"), "{text}");
        std::fs::write(&file, "nothing").expect("ours");
        let text = trusted(Some(&file)).expect_err("it is empty");
        assert!(text.contains("no certificate"), "{text}");
    }
}
