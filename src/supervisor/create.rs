//! Creating an instance: every fault at once, then one transaction, then an actor.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;
use uuid::Uuid;

use super::{
    Context, CreateRequest, Granted, InstanceEvent, Seen, Supervisor, SupervisorError,
    access::{Token, TokenSet},
    boot::{Birth, spawn_actor},
    command::Command,
    listener::{hold_listener, served},
    seats::Guest,
};
use crate::{
    domain::{
        access::TokenSettings,
        duration::HumanDuration,
        id::{CredentialName, EnvName, InstanceId, InstanceName, TemplateName, TokenName},
        instance::{InstanceChange, InstanceSpec, Lease},
        lease::check_ttl,
        principal::Principal,
        sleep::{SleepPolicy, Tier},
        template::{LeaseSpec, Template},
        violation::{Violation, add_unless_covered, pointer_token},
    },
    secrets::AccessToken,
    store::{EventRow, NewInstance, StoreError},
    templates,
};

/// Labels of one instance at most.
const LABELS_MAX: usize = 32;
/// Bytes of a label's key and of its value at most.
const LABEL_BYTES_MAX: usize = 128;

/// A request that passed every check but that of its name.
#[derive(Debug)]
struct Checked {
    template: Arc<Template>,
    name: Option<InstanceName>,
    spec: InstanceSpec,
    lease: Lease,
}

impl Supervisor {
    /// Every fault of a request to create, without doing it.
    ///
    /// # Errors
    /// [`SupervisorError::Invalid`] with the faults; when the store is away. What only the doing would show, such as a
    /// name that is taken, is not looked for.
    pub async fn check_create(
        &self,
        who: &Principal,
        request: CreateRequest,
    ) -> Result<(), SupervisorError> {
        match check(self.context(), who, request).await {
            Ok(_) | Err(SupervisorError::TemplateUnavailable { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Reads a TTL that an instance shall have from now on; absent or null: the one last asked for.
    ///
    /// # Errors
    /// When there is no such instance; [`SupervisorError::Invalid`] when the TTL cannot be its.
    pub fn check_ttl(
        &self,
        who: &Principal,
        id: InstanceId,
        ttl: Option<&Value>,
    ) -> Result<Option<HumanDuration>, SupervisorError> {
        let template = self.get(who, id)?.record.template.clone();
        let entry = self.context().catalogue.get(&template);
        // Without its template nobody knows the longest; the actor has the last word.
        let spec = entry.map_or_else(
            || LeaseSpec {
                ttl_max: HumanDuration::from_ms(u64::MAX),
                ..LeaseSpec::default()
            },
            |entry| entry.template.lease,
        );
        ttl.filter(|ttl| !ttl.is_null())
            .map(|ttl| check_ttl(ttl, &spec, "/ttl"))
            .transpose()
            .map_err(|violation| SupervisorError::Invalid(vec![violation]))
    }
}

/// Reads what is to be changed; a `freeze_after` or `sleep_after` of `null` is as the template says.
///
/// # Errors
/// [`SupervisorError::Invalid`] with every fault.
pub fn check_patch(
    policy: &SleepPolicy,
    name: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    freeze_after: Option<&Value>,
    sleep_after: Option<&Value>,
) -> Result<InstanceChange, SupervisorError> {
    let mut violations = Vec::new();
    let name = check_name(name, &mut violations);
    if let Some(labels) = &labels {
        check_labels(labels, &mut violations);
    }
    let mut read = |tier, value| check_rest(policy, tier, Some(value), &mut violations);
    let freeze_after = freeze_after.map(|value| read(Tier::Freeze, value));
    let sleep_after = sleep_after.map(|value| read(Tier::Sleep, value));
    if violations.is_empty() {
        Ok(InstanceChange {
            name,
            labels,
            freeze_after,
            sleep_after,
        })
    } else {
        Err(SupervisorError::Invalid(violations))
    }
}

/// Records, leases a port, starts.
pub(super) async fn create(
    context: &Arc<Context>,
    who: &Principal,
    request: CreateRequest,
) -> Result<Granted, SupervisorError> {
    if context.is_closing() {
        return Err(SupervisorError::ShuttingDown);
    }
    let checked = check(context, who, request).await?;
    let spare = context
        .spares
        .pick(context, &checked.template.name, &checked.spec);
    let id = spare.unwrap_or_else(|| InstanceId(Uuid::now_v7()));
    let made = create_as(context, who, checked, id).await;
    if made.is_err() && spare.is_some() {
        context.spares.let_go(context, id).await;
    }
    made
}

async fn create_as(
    context: &Arc<Context>,
    who: &Principal,
    checked: Checked,
    id: InstanceId,
) -> Result<Granted, SupervisorError> {
    let name = reserve_name(context, who, &checked, id)?;
    let guest = Guest {
        id,
        owner: who.owner.clone(),
        template: checked.template.name.clone(),
    };
    if let Err(full) = context.check_one_more(&guest) {
        context.registry.release_name(&who.owner, &name, id);
        return Err(full);
    }
    let made = record(context, who, checked, id, name.clone()).await;
    if made.is_err() {
        context.registry.release_name(&who.owner, &name, id);
    }
    made
}

async fn check(
    context: &Context,
    who: &Principal,
    request: CreateRequest,
) -> Result<Checked, SupervisorError> {
    // What can be told without the template is told beside it.
    let without = |message| {
        let mut violations = vec![Violation::new("/template", "unknown", message)];
        check_name(request.name.clone(), &mut violations);
        check_labels(&request.labels, &mut violations);
        check_both_rests(context, &request, &mut violations);
        if let Some(ttl) = request.ttl.as_ref().filter(|ttl| !ttl.is_null())
            && let Err(violation) = check_ttl(ttl, &LeaseSpec::default(), "/ttl")
            && violation.code == "invalid-duration"
        {
            violations.push(violation);
        }
        violations.sort_by(|a, b| a.pointer.cmp(&b.pointer));
        SupervisorError::Invalid(violations)
    };
    let template_name =
        TemplateName::new(request.template.clone()).map_err(|error| without(error.to_string()))?;
    let Some(entry) = context.catalogue.refresh(&template_name) else {
        let known: Vec<String> = context
            .catalogue
            .list()
            .iter()
            .map(|e| e.template.name.to_string())
            .collect();
        return Err(without(format!(
            "there is no template {template_name}; there are {}",
            known.join(", ")
        )));
    };
    let template = entry.template;
    let mut violations = templates::check(&template, &request.settings, &request.credentials);
    // What a setting grants is judged by what it says, so only where that can be right.
    let grants = context.catalogue.check_grants(&template, &request.settings);
    add_unless_covered(&mut violations, grants);
    let name = check_name(request.name.clone(), &mut violations);
    let ttl = match request.ttl.as_ref().filter(|ttl| !ttl.is_null()) {
        None => template.lease.ttl_default,
        Some(value) => match check_ttl(value, &template.lease, "/ttl") {
            Ok(ttl) => Some(ttl),
            Err(violation) => {
                violations.push(violation);
                None
            }
        },
    };
    let asked = &request.credentials;
    let credentials = check_credentials(context, who, asked, &mut violations).await?;
    if !request.force {
        check_looks(context, who, &template, &credentials, &mut violations).await?;
    }
    check_labels(&request.labels, &mut violations);
    let [freeze_after, sleep_after] = check_both_rests(context, &request, &mut violations);
    if !violations.is_empty() {
        violations.sort_by(|a, b| a.pointer.cmp(&b.pointer));
        return Err(SupervisorError::Invalid(violations));
    }
    if let Err(reason) = entry.program
        && entry.missing_package.is_none()
    {
        return Err(SupervisorError::TemplateUnavailable {
            name: template_name.to_string(),
            reason,
        });
    }
    Ok(Checked {
        template,
        name,
        spec: InstanceSpec {
            credentials,
            settings: request.settings,
            labels: request.labels,
            freeze_after,
            sleep_after,
        },
        lease: Lease::granted(ttl, context.clock.now()),
    })
}

/// Names that cannot be right were told by the template's check; here: whether each credential exists.
async fn check_credentials(
    context: &Context,
    who: &Principal,
    asked: &BTreeMap<String, String>,
    violations: &mut Vec<Violation>,
) -> Result<BTreeMap<EnvName, CredentialName>, SupervisorError> {
    let mut credentials = BTreeMap::new();
    for (variable, name) in asked {
        let (Ok(variable), Ok(name)) = (
            EnvName::new(variable.clone()),
            CredentialName::new(name.clone()),
        ) else {
            continue;
        };
        if context.store.credential(&who.owner, &name).await?.is_none() {
            let pointer = format!("/credentials/{}", pointer_token(variable.as_str()));
            let message = format!("{} no credential {name}; store it first", who.has());
            violations.push(Violation::new(pointer, "unknown", message));
        }
        credentials.insert(variable, name);
    }
    Ok(credentials)
}

/// What a stored credential looks like against what the template wants.
async fn check_looks(
    context: &Context,
    who: &Principal,
    template: &Template,
    credentials: &BTreeMap<EnvName, CredentialName>,
    violations: &mut Vec<Violation>,
) -> Result<(), SupervisorError> {
    let specs = template.credentials.iter();
    for spec in specs.filter(|spec| spec.pattern.is_some()) {
        let Some(name) = credentials.get(&spec.name) else {
            continue;
        };
        let Some(row) = context.store.credential(&who.owner, name).await? else {
            continue;
        };
        // One that cannot be opened is told by the launch.
        let Ok(value) = context.keys.open(&who.owner, name, &row.sealed) else {
            continue;
        };
        if let Some(sentence) = templates::unlike(spec, &value) {
            let pointer = format!("/credentials/{}", pointer_token(spec.name.as_str()));
            let message = format!(
                "the credential {name} does not look right: {sentence}; if it is all the same, say force"
            );
            violations.push(Violation::new(pointer, "pattern", message));
        }
    }
    Ok(())
}

/// A name that reads as an id would hide the instance that has the id.
fn check_name(name: Option<String>, violations: &mut Vec<Violation>) -> Option<InstanceName> {
    let name = match name.map(InstanceName::new).transpose() {
        Ok(name) => name?,
        Err(error) => {
            violations.push(Violation::new("/name", "pattern", error.to_string()));
            return None;
        }
    };
    if name.as_str().parse::<InstanceId>().is_ok() {
        let message = "must not be written like the id of an instance";
        violations.push(Violation::new("/name", "pattern", message));
        return None;
    }
    Some(name)
}

/// How long it may be unused before it is frozen, and before it is stopped, as far as the request says so.
fn check_both_rests(
    context: &Context,
    request: &CreateRequest,
    violations: &mut Vec<Violation>,
) -> [Option<HumanDuration>; 2] {
    [
        (Tier::Freeze, &request.freeze_after),
        (Tier::Sleep, &request.sleep_after),
    ]
    .map(|(tier, asked)| check_rest(&context.config.sleep, tier, asked.as_ref(), violations))
}

fn check_rest(
    policy: &SleepPolicy,
    tier: Tier,
    asked: Option<&Value>,
    violations: &mut Vec<Violation>,
) -> Option<HumanDuration> {
    let value = asked.filter(|value| !value.is_null())?;
    let read = policy.read(tier, value);
    read.map_err(|violation| violations.push(violation)).ok()
}

fn check_labels(labels: &BTreeMap<String, String>, violations: &mut Vec<Violation>) {
    if labels.len() > LABELS_MAX {
        let message = format!("at most {LABELS_MAX} labels are kept");
        violations.push(Violation::new("/labels", "too-many", message));
    }
    for (key, value) in labels {
        let fits =
            |text: &str| text.len() <= LABEL_BYTES_MAX && !text.chars().any(char::is_control);
        if key.is_empty() || !fits(key) || !fits(value) {
            let pointer = format!(
                "/labels/{}",
                pointer_token(&key.chars().take(60).collect::<String>())
            );
            let message = format!(
                "a label has a key and a value of at most {LABEL_BYTES_MAX} bytes each, without control characters"
            );
            violations.push(Violation::new(pointer, "pattern", message));
        }
    }
}

fn reserve_name(
    context: &Context,
    who: &Principal,
    checked: &Checked,
    id: InstanceId,
) -> Result<InstanceName, SupervisorError> {
    if let Some(name) = &checked.name {
        return if context.registry.reserve_name(&who.owner, name, id) {
            Ok(name.clone())
        } else {
            Err(SupervisorError::NameTaken(name.to_string()))
        };
    }
    // The end of a version 7 UUID is random; its beginning is the time.
    let random = id.0.simple().to_string();
    for length in 4..=20 {
        let text = format!(
            "{}-{}",
            checked.template.name,
            &random[random.len() - length..]
        );
        let name = InstanceName::new(text)
            .map_err(|error| SupervisorError::Internal(error.to_string()))?;
        if context.registry.reserve_name(&who.owner, &name, id) {
            return Ok(name);
        }
    }
    Err(SupervisorError::Internal(
        "no free name was found".to_owned(),
    ))
}

async fn record(
    context: &Arc<Context>,
    who: &Principal,
    checked: Checked,
    id: InstanceId,
    name: InstanceName,
) -> Result<Granted, SupervisorError> {
    let internal = |error: String| SupervisorError::Internal(error);
    let access_token = AccessToken::generate().map_err(|error| internal(error.to_string()))?;
    let (port, listener) = context.open_port(id)?;
    let give_back = || {
        let mut pool = context
            .ports
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        // Nobody ever saw the port: it need not rest.
        pool.release(port, id, context.clock.now());
    };
    // Whatever can fail goes before the record: a record without an actor would come to life by itself later.
    let listener = match served(listener) {
        Ok(listener) => listener,
        Err(error) => {
            give_back();
            return Err(internal(error.to_string()));
        }
    };
    let new = NewInstance {
        id,
        owner: who.owner.clone(),
        name,
        template: checked.template.name.clone(),
        spec: checked.spec,
        lease: checked.lease,
        port,
        token_hash: access_token.hash(),
        now: context.clock.now(),
    };
    let (record, created) = match context.store.create_and_tell(new.clone()).await {
        Ok(made) => made,
        Err(error) => {
            give_back();
            return Err(match error {
                StoreError::Conflict("name") => SupervisorError::NameTaken(new.name.to_string()),
                other => other.into(),
            });
        }
    };
    let held = Arc::clone(&listener);
    let birth = Birth {
        record,
        template: Some(checked.template),
        tokens: TokenSet::of_one(
            Token::new(TokenName::first(), TokenSettings::default(), new.now),
            new.token_hash,
        ),
        listener,
        workload: None,
        members: Vec::new(),
    };
    let begun = async {
        let handle = spawn_actor(context, birth).await?;
        // Who hears of it and asks for it finds it.
        announce(context, created);
        // The inbox is new and empty.
        let _ = handle.mailbox.send(Command::Boot).await;
        Ok::<_, SupervisorError>(handle)
    };
    // The keeper is asked first, so it has the port before the child; its launch does not wait for the answer.
    let ((), handle) = tokio::join!(hold_listener(context, id, &held), begun);
    let handle = handle?;
    let status = Seen::now(&handle);
    Ok(Granted {
        connect_url: context.connect_url(status.record.port, access_token.expose()),
        access_token: access_token.into_text(),
        status,
    })
}

/// Tells live listeners of the event that the transaction wrote, with its number there.
fn announce(context: &Context, event: EventRow) {
    let _ = context.events.send(InstanceEvent {
        id: event.id,
        instance: event.instance,
        generation: event.generation,
        at: event.at,
        kind: event.kind,
        message: event.message,
    });
}
