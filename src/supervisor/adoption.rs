//! Children of a former daemon: their pipes, logs and ways to the network are taken up again.

use std::sync::Arc;

use futures_util::FutureExt;

use super::{
    Context,
    actor::Actor,
    boot::end,
    capabilities::Memory,
    egress::Ways,
    launch::{Child, KeptHandshake, Recipe, attach, resolve},
    member::Signals,
    members::{LeftBehind, Members},
    private_port::PrivatePort,
    remote,
    sealed::{SealedByVariable, open_all, read_sealed},
    session_child::{LeftMember, SessionChild},
};
use crate::{
    domain::{instance::InstanceRecord, member::MemberPolicy, template::Template},
    runtime::{Presence, Workload},
    secrets::redaction::Redactions,
};

/// A child of a former daemon: its pipes, and the handshake it had with that daemon.
pub(super) async fn attach_adopted(
    context: &Context,
    record: &InstanceRecord,
    template: &Arc<Template>,
    workload: Workload,
    kept: Option<KeptHandshake>,
) -> std::io::Result<(Child, Option<Arc<Recipe>>)> {
    if remote::is_remote(template) {
        let child = remote::adopt(context, record, template, workload, kept).await?;
        return Ok((child, None));
    }
    let sealed = read_sealed(context, record, SealedByVariable::new())
        .await
        .unwrap_or_default();
    // A key that was removed meanwhile costs the redaction of its secret, not the instance.
    let secrets = open_all(context, record, &sealed).unwrap_or_default();
    let redactions = Arc::new(Redactions::new(secrets.iter().cloned()));
    let port = kept.as_ref().and_then(|kept| kept.http_port);
    let port = port.and_then(|port| context.private_ports.keep(port));
    // What it may reach, and its members, follow the template as it is now.
    let wanted = workload.has_own_network() || template.server.members_max().is_some();
    let number = port.as_ref().map(PrivatePort::number);
    let resolved = match wanted {
        true => resolve(context, record, number)
            .inspect_err(|error| {
                tracing::warn!(instance = %record.id, %error, "its child may reach nothing any more");
            })
            .ok(),
        false => None,
    };
    let egress = resolved
        .as_ref()
        .map(|resolved| resolved.sandbox.egress.clone());
    let ways = Ways::new(egress.unwrap_or_default(), &secrets, &redactions);
    let mut child = attach(context, record, template, port, workload, redactions, ways).await?;
    if let Some(kept) = kept {
        child.memory = Memory::of(template, kept.basis);
        child.upstream.adopt(kept.handshake);
    }
    let recipe = resolved.and_then(|resolved| {
        Recipe {
            resolved,
            sealed,
            record: record.clone(),
            generation: child.generation,
            template: Arc::clone(template),
        }
        .for_members()
    });
    Ok((child, recipe))
}

/// The members of a former daemon: their pipes. One whose pipes cannot be used is ended.
async fn attach_members(
    context: &Context,
    record: &InstanceRecord,
    template: &Template,
    workloads: Vec<Workload>,
) -> Vec<Child> {
    let sealed = read_sealed(context, record, SealedByVariable::new())
        .await
        .unwrap_or_default();
    // As for the main child.
    let secrets = open_all(context, record, &sealed).unwrap_or_default();
    let redactions = Arc::new(Redactions::new(secrets.iter().cloned()));
    let gated = workloads.iter().any(Workload::has_own_network);
    let resolved = gated.then(|| resolve(context, record, None));
    let egress = match resolved {
        Some(Ok(resolved)) => resolved.sandbox.egress,
        Some(Err(error)) => {
            tracing::warn!(instance = %record.id, %error, "its session children may reach nothing any more");
            Default::default()
        }
        None => Default::default(),
    };
    let mut children = Vec::with_capacity(workloads.len());
    for workload in workloads {
        let ways = Ways::new(egress.clone(), &secrets, &redactions);
        let hidden = Arc::clone(&redactions);
        // The log says why there is none.
        children.extend(attach(context, record, template, None, workload, hidden, ways).await);
    }
    children
}

impl Actor {
    /// Takes over the members that a former daemon left, and offers them to their sessions. New ones get numbers above
    /// theirs.
    pub(super) async fn adopt_members(&mut self, left: Vec<Workload>) {
        let last = left.iter().map(|workload| workload.id().member).max();
        let Some(last) = last else {
            return self.route.left.settle(Vec::new());
        };
        self.first_member = last.saturating_add(1);
        let mut offered = Vec::with_capacity(left.len());
        let Some(template) = self.template.clone() else {
            for workload in &left {
                end(workload).await;
                offered.push(LeftMember {
                    number: workload.id().member,
                    generation: workload.id().generation,
                    child: Err("its template is gone".to_owned()),
                });
            }
            let message = format!("{} were ended: their template is gone", left.len());
            self.note("session-children-ended", message);
            return self.route.left.settle(offered);
        };
        let mut usable = Vec::with_capacity(left.len());
        for workload in left {
            if workload.presence() == Presence::Stranger {
                tracing::warn!(workload = ?workload.id(), "a session child whose pid is that of another process is ended");
                end(&workload).await;
            } else {
                usable.push(workload);
            }
        }
        let children = attach_members(&self.context, &self.record, &template, usable).await;
        let (mut members, mut alive) = (Vec::with_capacity(children.len()), 0);
        for child in children {
            let (id, signals) = (child.workload.id(), Signals::default());
            let child_of_session = if child.workload.presence() == Presence::Ended {
                let report = child.workload.exited().now_or_never();
                Err(report.map_or_else(
                    || "it has ended".to_owned(),
                    |report| format!("it {}", report.status),
                ))
            } else {
                alive += 1;
                Ok(SessionChild::new(
                    id.member,
                    id.generation,
                    template.server.session_idle,
                    Arc::clone(&child.upstream),
                    signals.bond.clone(),
                ))
            };
            offered.push(LeftMember {
                number: id.member,
                generation: id.generation,
                child: child_of_session,
            });
            members.push(LeftBehind { child, signals });
        }
        if alive > 0 {
            self.note(
                "session-children-adopted",
                format!("{alive} were taken over, running"),
            );
        }
        self.members = Some(Members::begin_with(
            self,
            MemberPolicy::from(&*template),
            members,
        ));
        self.route.left.settle(offered);
    }
}
