//! The repository as text: every file of ours, and Rust sources with comments and literals blanked out, so that
//! a rule about code is never tripped by prose.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Folders (and, in a worktree, the `.git` file) that hold no source of ours.
const SKIPPED: &[&str] = &[
    ".git",
    "target",
    "data",
    "node_modules",
    "__pycache__",
    "proptest-regressions",
];

/// The top of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A text file of the repository.
pub struct SourceFile {
    /// Path from the top, with `/`.
    pub path: String,
    /// Its content as written.
    pub text: String,
}

/// Every text file of the repository, sorted by path.
pub fn all() -> Vec<SourceFile> {
    let mut paths = Vec::new();
    walk(root(), &mut paths);
    paths.sort();
    paths
        .into_iter()
        .filter_map(|path| {
            let text = fs::read_to_string(&path).ok()?;
            let path = path.strip_prefix(root()).ok()?.to_str()?.to_owned();
            Some(SourceFile { path, text })
        })
        .collect()
}

/// The Rust files under one folder (`src/`, `tests/`, …).
pub fn rust_under(folder: &str) -> Vec<SourceFile> {
    let files: Vec<_> = all()
        .into_iter()
        .filter(|file| file.path.starts_with(folder) && file.path.ends_with(".rs"))
        .collect();
    assert!(!files.is_empty(), "no Rust file under {folder}");
    files
}

fn walk(folder: &Path, into: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).expect("a folder of the repository is readable");
    for entry in entries {
        let entry = entry.expect("a folder of the repository is readable");
        let name = entry.file_name();
        let kind = entry.file_type().expect("an entry has a type");
        if SKIPPED.iter().any(|skipped| name == *skipped) {
            continue;
        }
        if kind.is_dir() {
            walk(&entry.path(), into);
        } else if kind.is_file() {
            into.push(entry.path());
        }
    }
}

/// The code of a Rust source: comments, strings and characters become spaces, line ends stay.
pub fn code_of(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(bytes, at);
        if end > at {
            out.extend(
                bytes[at..end]
                    .iter()
                    .map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }),
            );
            at = end;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Where the comment or literal that begins at `at` ends; `at` itself when none begins there.
fn literal_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let after_word = at > 0 && is_word(bytes[at - 1]);
    if rest.starts_with(b"//") {
        return at
            + rest
                .iter()
                .position(|byte| *byte == b'\n')
                .unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        return block_comment_end(bytes, at);
    }
    if rest[0] == b'"' {
        return string_end(bytes, at + 1);
    }
    if (rest[0] == b'r' || rest.starts_with(b"br")) && !after_word {
        return raw_string_end(bytes, at).unwrap_or(at);
    }
    if rest[0] == b'\'' && !after_word {
        return char_end(bytes, at).unwrap_or(at);
    }
    at
}

fn block_comment_end(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0;
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn string_end(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn raw_string_end(bytes: &[u8], at: usize) -> Option<usize> {
    let mut open = at + if bytes[at] == b'b' { 2 } else { 1 };
    let hashes = bytes[open..]
        .iter()
        .take_while(|byte| **byte == b'#')
        .count();
    open += hashes;
    if bytes.get(open) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.resize(1 + hashes, b'#');
    let body = &bytes[open + 1..];
    let length = body
        .windows(close.len())
        .position(|window| window == close)?;
    Some(open + 1 + length + close.len())
}

/// A character literal, told from a lifetime by its closing quote.
fn char_end(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes.get(at + 1) == Some(&b'\\') {
        let close = bytes[at + 3..].iter().position(|byte| *byte == b'\'')?;
        return Some(at + 3 + close + 1);
    }
    let text = std::str::from_utf8(&bytes[at + 1..bytes.len().min(at + 5)])
        .or_else(|error| std::str::from_utf8(&bytes[at + 1..at + 1 + error.valid_up_to()]))
        .ok()?;
    let length = text.chars().next()?.len_utf8();
    (bytes.get(at + 1 + length) == Some(&b'\'')).then_some(at + 1 + length + 1)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The identifiers of a piece of code with the number of their line, from 1.
pub fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    code.lines().enumerate().flat_map(|(index, line)| {
        line.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
            .filter(|word| !word.is_empty())
            .map(move |word| (index + 1, word))
    })
}

/// Every place where code names something below `head` (`crate`, `tokio`, …): line and the first segment after it.
/// Groups (`crate::{a::B, c}`) give one entry for each member.
pub fn paths_below<'a>(code: &'a str, head: &str) -> Vec<(usize, &'a str)> {
    let needle = format!("{head}::");
    let mut found = Vec::new();
    for (at, _) in code.match_indices(&needle) {
        if at > 0 && (is_word(code.as_bytes()[at - 1]) || code.as_bytes()[at - 1] == b':') {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let rest = code[at + needle.len()..].trim_start();
        match rest.strip_prefix('{') {
            Some(group) => found.extend(group_members(group).map(|member| (line, member))),
            None => found.extend(first_word(rest).map(|word| (line, word))),
        }
    }
    found
}

/// The first segments of the members of a use group, up to its closing brace.
fn group_members(group: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_usize;
    let mut starts = vec![0];
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => starts.push(at + 1),
            _ => {}
        }
    }
    starts
        .into_iter()
        .filter_map(|start| first_word(&group[start..]))
}

fn first_word(text: &str) -> Option<&str> {
    let text = text.trim_start();
    let end = text
        .bytes()
        .position(|byte| !is_word(byte))
        .unwrap_or(text.len());
    (end > 0).then(|| &text[..end])
}

#[test]
fn comments_and_literals_are_blanked_and_lines_kept() {
    let text = "let a = \"unsafe \\\" x\"; // unsafe\nlet b = 'u'; /* unsafe /* x */ */ fn f<'a>() {}\nr#\"unsafe\"# c";
    let code = code_of(text);
    assert!(!code.contains("unsafe"), "{code}");
    assert!(code.contains("fn f<'a>() {}"), "{code}");
    assert_eq!(code.lines().count(), 3);
    assert_eq!(code.len(), text.len());
}

#[test]
fn paths_are_found_in_groups_too() {
    let code = "use crate::{store::{Store, x}, domain};\nlet a = crate::wire::B; mycrate::no; a::crate::no;";
    assert_eq!(
        paths_below(code, "crate"),
        [(1, "store"), (1, "domain"), (2, "wire")]
    );
}
