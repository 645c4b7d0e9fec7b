//! What texts and numbers may be, for the OpenAPI document and the shape of bodies (`api::shape`): the values themselves
//! are read with faults that name what is allowed, which these types could not give. A title says what is taken, as in
//! "ttl must be …".

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        ObjectBuilder, Ref, RefOr, Schema,
        schema::{AnyOfBuilder, Type},
    },
};

use super::{Instance, InstanceSummary};
use crate::domain::{
    call::CallOutcome,
    state::{DesiredState, Health, StatusWord},
};

macro_rules! words {
    ($($(#[doc = $doc:literal])* $name:ident = $words:expr;)*) => {$(
        $(#[doc = $doc])*
        pub struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new()
                    .schema_type(Type::String)
                    .enum_values(Some($words))
                    .description(Some(concat!($($doc),*).trim()))
                    .into()
            }
        }

        impl ToSchema for $name {}
    )*};
}

words! {
    /// What an instance is, in one word.
    StatusSchema = StatusWord::ALL.map(StatusWord::as_str);
    /// How an instance does.
    HealthSchema = Health::ALL.map(Health::as_str);
    /// What was asked of an instance.
    DesiredSchema = DesiredState::ALL.map(DesiredState::as_str);
    /// Where a log line comes from; system: a word of the daemon's own.
    StreamSchema = ["stdout", "stderr", "system", "unknown"];
    /// How a call ended.
    OutcomeSchema = CallOutcome::WORDS;
    /// What a client speaks.
    EraSchema = ["session", "stateless"];
    /// How much a list tells of each entry.
    ViewSchema = ["full", "summary"];
}

/// A duration: whole seconds, or a text of numbers with units (`ms`, `s`, `m`, `h`, `d`).
#[derive(ToSchema)]
#[serde(untagged)]
#[schema(title = "whole seconds, or a text such as \"30m\" or \"2h\"")]
pub enum DurationSchema {
    /// Seconds.
    Seconds(u64),
    /// Such as `90s`, `2h` or `1d 12h`.
    Text(String),
}

/// What a token may call.
#[derive(ToSchema)]
#[serde(untagged)]
#[schema(title = "\"all\", \"read-only\" or {\"tools\": [NAME, …]}")]
pub enum ScopeSchema {
    /// `all` or `read-only`.
    Word(String),
    /// The tools by name; a `*` at the end stands for any rest.
    Tools {
        /// At least one.
        tools: Vec<String>,
    },
}

/// Requests in a time.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(title = "an object such as {\"requests\": 100, \"per\": \"1m\"}")]
pub struct RateSchema {
    /// How many.
    pub requests: u64,
    /// In which time.
    pub per: DurationSchema,
}

/// An entry of a list of instances: with `view=summary` an [`InstanceSummary`], otherwise an [`Instance`].
pub struct ListedInstance;

impl PartialSchema for ListedInstance {
    fn schema() -> RefOr<Schema> {
        // Whatever is an instance is a summary of it, too, so it cannot be one of them alone.
        AnyOfBuilder::new()
            .item(Ref::from_schema_name(Instance::name()))
            .item(Ref::from_schema_name(InstanceSummary::name()))
            .into()
    }
}

impl ToSchema for ListedInstance {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        for (name, schema) in [
            (Instance::name(), Instance::schema()),
            (InstanceSummary::name(), InstanceSummary::schema()),
        ] {
            schemas.push((name.into_owned(), schema));
        }
        Instance::schemas(schemas);
        InstanceSummary::schemas(schemas);
    }
}
