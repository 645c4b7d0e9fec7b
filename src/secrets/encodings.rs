//! The forms in which programs commonly print a secret.

use std::fmt::Write as _;

use base64::{
    Engine as _,
    alphabet::{STANDARD, URL_SAFE},
    engine::general_purpose::{GeneralPurpose, NO_PAD, PAD},
};
use serde_json::Value;
use zeroize::Zeroizing;

type Form = Zeroizing<Vec<u8>>;

/// Every form of `value` to look for, each at least `min_bytes` long, without line breaks. Holds duplicates.
pub(super) fn forms_of(value: &str, min_bytes: usize) -> Vec<Form> {
    let mut forms = Vec::new();
    let inner = secrets_in_json(value);
    let mut texts = vec![value];
    for whole in [value]
        .into_iter()
        .chain(inner.iter().map(|text| text.as_str()))
    {
        if whole.contains('\n') {
            texts.extend(whole.lines());
            texts.push(whole.trim_end());
        }
    }
    texts.extend(inner.iter().map(|text| text.as_str()));
    for text in texts.into_iter().filter(|text| text.len() >= min_bytes) {
        forms.push(Zeroizing::new(text.as_bytes().to_vec()));
        json_forms(text, &mut forms);
        percent_forms(text, &mut forms);
        base64_forms(text, &mut forms);
    }
    forms.retain(|form| form.len() >= min_bytes && !form.contains(&b'\n'));
    forms
}

/// What a JSON document such as the key of a service account holds of secrets, by the names of its members: programs
/// print the token, not the document.
fn secrets_in_json(value: &str) -> Vec<Zeroizing<String>> {
    let mut secrets = Vec::new();
    if value.trim_start().starts_with(['{', '['])
        && let Ok(document) = serde_json::from_str(value)
    {
        collect(document, "", &mut secrets);
    }
    secrets
}

fn collect(value: Value, name: &str, secrets: &mut Vec<Zeroizing<String>>) {
    match value {
        Value::String(text) => {
            let text = Zeroizing::new(text);
            if is_secret_name(name) && !text.starts_with("https://") {
                secrets.push(text);
            }
        }
        Value::Array(entries) => {
            for entry in entries {
                collect(entry, name, secrets);
            }
        }
        Value::Object(members) => {
            for (name, value) in members {
                collect(value, &name, secrets);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let words = ["secret", "token", "key", "passw", "credential", "private"];
    words.iter().any(|word| name.contains(word)) && !name.ends_with("type")
}

fn json_forms(text: &str, forms: &mut Vec<Form>) {
    let Ok(json) = serde_json::to_string(text).map(Zeroizing::new) else {
        return;
    };
    let inner = &json[1..json.len() - 1];
    forms.push(Zeroizing::new(inner.as_bytes().to_vec()));
    forms.push(Zeroizing::new(inner.replace('/', "\\/").into_bytes()));
    if !inner.is_ascii() {
        let mut ascii = Zeroizing::new(String::with_capacity(inner.len() * 6));
        for char in inner.chars() {
            if char.is_ascii() {
                ascii.push(char);
            } else {
                for unit in char.encode_utf16(&mut [0; 2]) {
                    // Writing to a String cannot fail.
                    let _ = write!(ascii, "\\u{unit:04x}");
                }
            }
        }
        forms.push(Zeroizing::new(ascii.as_bytes().to_vec()));
    }
}

/// RFC 3986 percent encoding with either case of digits, as a URL component, as a form field, and with the
/// characters that `encodeURIComponent` and `encodeURI` leave alone.
fn percent_forms(text: &str, forms: &mut Vec<Form>) {
    let unreserved: &[u8] = b"-._~";
    let component: &[u8] = b"-._~!*'()";
    let whole_uri: &[u8] = b"-._~!*'();/?:@&=+$,#";
    for (kept, plus) in [
        (unreserved, false),
        (unreserved, true),
        (component, false),
        (whole_uri, false),
    ] {
        for digits in [b"0123456789ABCDEF", b"0123456789abcdef"] {
            let mut form = Zeroizing::new(Vec::with_capacity(text.len() * 3));
            for byte in text.bytes() {
                if byte.is_ascii_alphanumeric() || kept.contains(&byte) {
                    form.push(byte);
                } else if plus && byte == b' ' {
                    form.push(b'+');
                } else {
                    let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
                    form.extend_from_slice(&[b'%', digits[high], digits[low]]);
                }
            }
            forms.push(form);
        }
    }
}

/// Whole, with and without padding; and the characters that stay the same wherever the value stands inside a
/// longer encoded text (three alignments), such as `user:token` in Basic authentication.
fn base64_forms(text: &str, forms: &mut Vec<Form>) {
    for alphabet in [STANDARD, URL_SAFE] {
        let padded = GeneralPurpose::new(&alphabet, PAD);
        let bare = GeneralPurpose::new(&alphabet, NO_PAD);
        forms.push(Zeroizing::new(padded.encode(text).into_bytes()));
        forms.push(Zeroizing::new(bare.encode(text).into_bytes()));
        for before in 0..3 {
            let mut shifted = Zeroizing::new(vec![0u8; before]);
            shifted.extend_from_slice(text.as_bytes());
            let encoded = Zeroizing::new(bare.encode(&*shifted).into_bytes());
            // Six bits a character: those that mix in a neighbour's bits are left out.
            let first = (before * 8).div_ceil(6);
            let last = shifted.len() * 8 / 6;
            forms.push(Zeroizing::new(encoded[first..last].to_vec()));
        }
    }
}
