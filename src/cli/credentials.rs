//! The verbs on credentials. A value never comes from the command line, where every process of the host reads it.

use std::{
    io::{IsTerminal as _, Read as _, Write as _},
    path::Path,
};

use jiff::Timestamp;
use zeroize::{Zeroize as _, Zeroizing};

use super::{
    failure::Failure,
    output::{Output, age},
};
use crate::{client::Client, wire::PutCredential};

/// Largest secret in bytes; a service account's key file is about 2,400.
const VALUE_LIMIT_BYTES: u64 = 64 << 10;

pub(super) async fn put(
    client: &Client,
    (name, owner): (String, Option<String>),
    file: Option<&Path>,
    force: bool,
    out: Output,
) -> Result<(), Failure> {
    let mut value = match file {
        Some(file) => {
            let source = std::fs::File::open(file).map_err(|error| {
                Failure::Usage(format!("cannot read {}: {error}", file.display()))
            })?;
            read_value(source)?
        }
        None if std::io::stdin().is_terminal() => prompt(&name)?,
        None => read_value(std::io::stdin().lock())?,
    };
    if value.is_empty() {
        return Err(Failure::Usage("the value is empty".to_owned()));
    }
    let mut request = PutCredential {
        name,
        owner,
        value: std::mem::take(&mut *value),
    };
    let reply = client.put_credential(&request, force).await;
    request.value.zeroize();
    let reply = reply?;
    if out.json {
        return out.line(reply.json());
    }
    out.line(&format!("{} is stored", request.name))
}

/// Reads a secret to its end; one line's end after it belongs to the editor or to `echo`, not to the secret.
fn read_value(source: impl std::io::Read) -> Result<Zeroizing<String>, Failure> {
    let mut text = Zeroizing::new(String::with_capacity(4_096));
    source
        .take(VALUE_LIMIT_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(|error| Failure::Usage(format!("cannot read the value: {error}")))?;
    if text.len() as u64 > VALUE_LIMIT_BYTES {
        return Err(Failure::Usage(format!(
            "the value is longer than {VALUE_LIMIT_BYTES} bytes"
        )));
    }
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

fn prompt(name: &str) -> Result<Zeroizing<String>, Failure> {
    eprint!("Value of {name} (not shown): ");
    std::io::stderr().flush()?;
    let value = rpassword::read_password().map(Zeroizing::new);
    value.map_err(|error| Failure::Failed(format!("cannot read from the terminal: {error}")))
}

pub(super) async fn list(client: &Client, owner: Option<&str>, out: Output) -> Result<(), Failure> {
    let reply = client.credentials(owner).await?;
    if out.json {
        return out.line(reply.json());
    }
    let now = Timestamp::now();
    let items = reply.read()?.items;
    if items.is_empty() {
        return out.line(match owner {
            Some(_) => "That owner has no credentials.",
            None => "There are no credentials; `minimcp credential put NAME` stores one.",
        });
    }
    let rows = items
        .into_iter()
        .map(|credential| {
            let age = age(Some(&credential.updated_at), now);
            [credential.name, credential.owner, credential.key_id, age]
        })
        .collect();
    out.line(&out.table(["name", "owner", "key", "age"], rows))
}

pub(super) async fn delete(
    client: &Client,
    (name, owner): (&str, Option<String>),
    force: bool,
    out: Output,
) -> Result<(), Failure> {
    client.delete_credential(name, owner, force).await?;
    if out.json {
        return Ok(());
    }
    out.line(&format!("{name} is deleted"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_end_is_not_part_of_the_secret() {
        for (given, value) in [
            ("secret", "secret"),
            ("secret\n", "secret"),
            ("secret\r\n", "secret"),
            ("two\nlines\n\n", "two\nlines\n"),
            (" spaces ", " spaces "),
        ] {
            let read = read_value(given.as_bytes()).expect("a value");
            assert_eq!(*read, value, "{given:?}");
        }
    }

    #[test]
    fn a_value_without_end_is_refused() {
        let error = read_value(std::io::repeat(b'x')).expect_err("too long");
        assert_eq!(error.to_string(), "the value is longer than 65536 bytes");
    }
}
