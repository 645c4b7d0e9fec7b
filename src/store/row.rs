//! Rows that both dialects read by one definition, and the conversions at the column's edge.

use std::borrow::Cow;

use serde::{Serialize, de::DeserializeOwned};
use sqlx::{
    Decode, Encode, Postgres, Sqlite, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgTypeInfo, PgValueFormat, PgValueRef, types::Oid},
    sqlite::{SqliteArgumentsBuffer, SqliteTypeInfo, SqliteValueRef},
};

use super::StoreError;

/// Defines a row struct with one `FromRow` for every database that can decode its columns.
macro_rules! row {
    ($vis:vis struct $name:ident { $($field:ident: $kind:ty),+ $(,)? }) => {
        $vis struct $name { $($vis $field: $kind),+ }

        impl<'r, R> sqlx::FromRow<'r, R> for $name
        where
            R: sqlx::Row,
            &'static str: sqlx::ColumnIndex<R>,
            $($kind: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>),+
        {
            fn from_row(row: &'r R) -> sqlx::Result<Self> {
                Ok(Self { $($field: row.try_get(stringify!($field))?),+ })
            }
        }
    };
}

/// JSON as it goes over the wire: TEXT on SQLite, JSONB on PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct JsonText(String);

/// The object identifier of `jsonb` in `pg_type`, the same in every PostgreSQL.
const JSONB: Oid = Oid(3802);
/// The only version of the binary form of `jsonb`.
const JSONB_VERSION: u8 = 1;

impl JsonText {
    /// Writes `value`; NUL characters, which PostgreSQL stores in no text, become U+FFFD.
    pub(super) fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self, StoreError> {
        serde_json::to_string(value)
            .map(|text| Self(without_escaped_nul(text)))
            .map_err(|error| StoreError::Refused(format!("a value is not JSON: {error}")))
    }

    /// Reads the value back.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_str(&self.0).ok()
    }
}

impl Type<Sqlite> for JsonText {
    fn type_info() -> SqliteTypeInfo {
        <str as Type<Sqlite>>::type_info()
    }
}

impl Encode<'_, Sqlite> for JsonText {
    fn encode_by_ref(&self, args: &mut SqliteArgumentsBuffer) -> Result<IsNull, BoxDynError> {
        Encode::<Sqlite>::encode_by_ref(&self.0, args)
    }
}

impl<'r> Decode<'r, Sqlite> for JsonText {
    fn decode(value: SqliteValueRef<'r>) -> Result<Self, BoxDynError> {
        <String as Decode<'r, Sqlite>>::decode(value).map(Self)
    }
}

impl Type<Postgres> for JsonText {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(JSONB)
    }
}

impl Encode<'_, Postgres> for JsonText {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.push(JSONB_VERSION);
        buffer.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }
}

impl<'r> Decode<'r, Postgres> for JsonText {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        let format = value.format();
        let bytes = value.as_bytes()?;
        let text = match format {
            PgValueFormat::Text => bytes,
            PgValueFormat::Binary => match bytes.split_first() {
                Some((&JSONB_VERSION, text)) => text,
                _ => return Err("unknown version of jsonb".into()),
            },
        };
        Ok(Self(str::from_utf8(text)?.to_owned()))
    }
}

/// Replaces `\u0000` escapes, but not the text `\\u0000` (a backslash followed by letters).
fn without_escaped_nul(text: String) -> String {
    const NUL: &str = "\\u0000";
    if !text.contains(NUL) {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix(NUL) {
            out.push_str("\\ufffd");
            rest = after;
        } else {
            // An escape is at least two bytes, both ASCII; the rest of a longer one holds no backslash.
            let (escape, after) = rest.split_at(rest.len().min(2));
            out.push_str(escape);
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// Replaces NUL characters, which PostgreSQL stores in no text, by U+FFFD.
pub(super) fn without_nul(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        Cow::Owned(text.replace('\0', "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// A counter as a column: 63 bits are enough for every counter here, and what is larger stays at the bound.
pub(super) fn to_column(counter: u64) -> i64 {
    i64::try_from(counter).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn nul_leaves_json_and_a_written_escape_stays() {
        let text = JsonText::of(&json!({"a\0b": "\0", "c": "\\u0000", "d": "\\\0"})).expect("JSON");
        let back: Value = text.read().expect("still JSON");
        assert_eq!(
            back,
            json!({"a\u{fffd}b": "\u{fffd}", "c": "\\u0000", "d": "\\\u{fffd}"})
        );
    }

    proptest! {
        #[test]
        fn json_texts_come_back_with_only_nul_replaced(text in "[\\x00a\\\\u0\"\n]{0,24}") {
            let written = JsonText::of(&text).expect("JSON");
            prop_assert_eq!(written.read::<String>(), Some(text.replace('\0', "\u{fffd}")));
        }
    }
}
