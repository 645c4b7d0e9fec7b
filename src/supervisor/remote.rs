//! Instances whose server is elsewhere: nothing is launched, but the same life is led. The "child" is our connection.

use std::sync::Arc;

use rustls::ClientConfig;
use tokio::sync::OnceCell;
use zeroize::Zeroizing;

use super::{
    Context,
    actor::Actor,
    launch::{Child, KeptHandshake, Launched, arguments_hook, not_started, upstream_options},
    sealed::{SealedByVariable, open_all, read_sealed},
};
use crate::{
    domain::{
        exit::ExitStatus,
        id::Generation,
        instance::InstanceRecord,
        restart::RestartPolicy,
        state::{DesiredState, Health, InstanceState},
        template::{Template, Transport},
    },
    egress::Dialer,
    logs::{LogSource, LogStream},
    runtime::{self, Workload, WorkloadId},
    secrets::redaction::Redactions,
    upstream::{Dial, Handshake, RemoteServer, Upstream, UpstreamError, trusted},
};

/// The longest wait for another try that a caller waits along with, in milliseconds.
const PATIENCE_MS: u32 = 2_000;

/// What TLS trusts, read at the first use.
#[derive(Default)]
pub(super) struct Trust(OnceCell<Arc<ClientConfig>>);

impl Trust {
    async fn get(&self, context: &Context) -> Result<Arc<ClientConfig>, String> {
        let read = || async {
            let file = context.config.remote.ca_file.clone();
            tokio::task::spawn_blocking(move || trusted(file.as_deref()))
                .await
                .map_err(|error| error.to_string())?
        };
        self.0.get_or_try_init(read).await.cloned()
    }
}

/// Whether a template's server is elsewhere.
pub(super) fn is_remote(template: &Template) -> bool {
    template.server.transport == Transport::Remote
}

/// Our side of a server elsewhere that a former daemon spoke with; whatever it was doing else begins anew.
pub(super) fn left(context: &Context, record: &InstanceRecord) -> Option<Workload> {
    let entry = context.catalogue.get(&record.template)?;
    let ran = record.state == InstanceState::Running && record.desired == DesiredState::Running;
    (ran && is_remote(&entry.template))
        .then(|| runtime::elsewhere(WorkloadId::main(record.id, record.generation)))
}

/// A connection of `generation`.
pub(super) async fn launch(
    context: &Context,
    record: &InstanceRecord,
    generation: Generation,
    template: Arc<Template>,
    known: SealedByVariable,
) -> Result<Launched, ExitStatus> {
    let sealed = read_sealed(context, record, known).await?;
    let secrets = open_all(context, record, &sealed)?;
    let workload = runtime::elsewhere(WorkloadId::main(record.id, generation));
    let child = attach(context, record, &template, workload, secrets);
    Ok(Launched {
        child: child.await.map_err(not_started)?,
        sealed,
        template,
        recipe: None,
    })
}

/// The connection of a former daemon, with its session if there was one.
pub(super) async fn adopt(
    context: &Context,
    record: &InstanceRecord,
    template: &Arc<Template>,
    workload: Workload,
    kept: Option<KeptHandshake>,
) -> std::io::Result<Child> {
    let text = |status: ExitStatus| std::io::Error::other(status.to_string());
    let sealed = read_sealed(context, record, SealedByVariable::new()).await;
    let secrets = sealed.and_then(|sealed| open_all(context, record, &sealed));
    let secrets = secrets.map_err(text)?;
    let child = attach(context, record, template, workload, secrets).await;
    let child = child.map_err(std::io::Error::other)?;
    if let Some(kept) = kept {
        child.upstream.adopt(kept.handshake);
    }
    Ok(child)
}

async fn attach(
    context: &Context,
    record: &InstanceRecord,
    template: &Template,
    workload: Workload,
    secrets: Vec<(String, Zeroizing<String>)>,
) -> Result<Child, String> {
    let resolved = context
        .catalogue
        .resolve_remote(&record.template, &record.spec, &secrets);
    let (address, denied) = resolved.map_err(|error| error.to_string())?;
    let ledger = context
        .registry
        .get(record.id)
        .map(|handle| Arc::clone(&handle.egress))
        .unwrap_or_default();
    let dialer = Arc::new(Dialer::new(
        Arc::clone(&context.outside),
        ledger,
        address.host,
        denied,
        address.url.scheme_str() == Some("https"),
    ));
    let dial: Dial = Arc::new(move || {
        let dialer = Arc::clone(&dialer);
        Box::pin(async move { Ok(dialer.dial().await?) })
    });
    let server = RemoteServer {
        url: address.url,
        headers: address.headers,
        credentials: address.credentials,
        dial,
        tls: context.trust.get(context).await?,
    };
    let redactions = Arc::new(Redactions::new(secrets));
    arguments_hook(context, record, template, &redactions);
    let source = LogSource {
        instance: record.id,
        key: record.key,
        generation: workload.id().generation,
        member: 0,
    };
    let (logs, hidden) = (context.logs.clone(), Arc::clone(&redactions));
    let noise = Arc::new(move |line: &[u8]| logs.note(source, LogStream::System, line, &hidden));
    let options = upstream_options(context, template);
    Ok(Child {
        generation: workload.id().generation,
        workload,
        upstream: Upstream::over_remote(server, options, noise),
        captures: Vec::new(),
        http_port: None,
        redactions,
        _gate: None,
        _watched: None,
        told_silent: false,
        memory: super::capabilities::Memory::default(),
        _seat: None,
    })
}

impl Actor {
    /// Whether its server is elsewhere.
    pub(super) fn is_remote(&self) -> bool {
        self.template.as_deref().is_some_and(is_remote)
    }

    /// What goes on with a server elsewhere, which says nothing by itself, stands in the log of its instance.
    pub(super) fn log_of_remote(&self, text: &str) {
        if let (true, Some(child)) = (self.is_remote(), &self.child) {
            let source = LogSource {
                instance: self.record.id,
                key: self.record.key,
                generation: child.generation,
                member: 0,
            };
            let logs = &self.context.logs;
            logs.note(
                source,
                LogStream::System,
                text.as_bytes(),
                &child.redactions,
            );
        }
    }

    pub(super) fn log_connecting(&self) {
        if self.is_remote()
            && let Some(url) = self.remote_url()
        {
            self.log_of_remote(&format!("connecting to {url}"));
        }
    }

    pub(super) fn log_connected(&self, handshake: &Handshake) {
        self.log_of_remote(&format!(
            "connected: {} {}, MCP {}, {} tools",
            handshake.server_name,
            handshake.server_version,
            handshake.protocol_version,
            handshake.tools.len()
        ));
    }

    /// Where its server is, for people: without secrets. `None`: it is a child of ours.
    pub(super) fn remote_url(&self) -> Option<String> {
        let template = self.template.as_deref()?;
        crate::templates::shown_url(template, &self.record.spec.settings)
    }

    /// What somebody said of a failure, without the secrets of the instance.
    pub(super) fn redacted(&self, error: &UpstreamError) -> String {
        let text = error.to_string();
        match &self.child {
            Some(child) => child.redactions.redact(&text).into_owned(),
            None => text,
        }
    }

    /// How long until a server elsewhere is tried again, in seconds, where that is too long for a caller to wait: it is
    /// told at once what is wrong.
    pub(super) fn remote_retry_after_s(&self) -> Option<u32> {
        let InstanceState::BackingOff { until } = self.life.state else {
            return None;
        };
        let wait_ms = until.saturating_sub(self.context.clock.now());
        let wait_ms = u32::try_from(wait_ms.max(0)).unwrap_or(u32::MAX);
        (self.is_remote() && wait_ms > PATIENCE_MS).then(|| wait_ms.div_ceil(1_000))
    }

    /// Why a server elsewhere is given up whose probes failed too often, where its policy is to begin again.
    pub(super) fn remote_is_lost(&self, health: Health, error: &str) -> Option<String> {
        let template = self.template.as_deref()?;
        let begins_again = template.restart.policy != RestartPolicy::Never;
        (health == Health::Unhealthy && begins_again && is_remote(template)).then(|| {
            let probes = template.health.failure_threshold;
            match probes {
                1 => format!("a probe failed: {error}"),
                _ => format!("{probes} probes in a row failed, the last because {error}"),
            }
        })
    }
}
