//! What the next `serve` must know of client sessions, so that they outlive this one however it ends.
//!
//! It lies in a file without a name in memory, of which the keeper holds a descriptor and nothing more: a change costs
//! one `write`, no message, and is there after a SIGKILL in the next moment. It is written when a session begins or ends
//! and when it says what it wishes to hear, never for a call. Ids of sessions are in it as they are in the memory of
//! `serve`; they open nothing without the access token of their session, which is not in it.
//!
//! ```text
//! header: magic, version, region, where it starts, sum      written in one piece
//! region: entries, each: length, sum over region and text, text (JSON); ends where a sum is wrong
//! ```
//!
//! When much of a region is out of date, what still counts is written as a region of its own, elsewhere in the file, and
//! then the header names that one: whenever the writer dies, one whole region is there.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, HashSet},
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::now_ms;
use crate::{
    domain::{
        UnixMs,
        id::{Generation, InstanceId},
    },
    supervisor::access::Token,
    upstream::Era,
};

const MAGIC: &[u8; 8] = b"mMCPsess";
/// Grows when an entry changes its meaning.
const VERSION: u32 = 1;
const HEADER_LEN: usize = 36;
const ENTRY_HEAD_LEN: usize = 12;
/// Longest entry in bytes. A session, or a wish, that is longer ends with this daemon. Who puts icons into its name, as
/// servers and clients may, needs hundreds of KiB for its handshake.
const ENTRY_MAX: usize = 1 << 20;
/// Longest region in bytes; sessions beyond it end with this daemon.
const REGION_MAX: u64 = 16 << 20;
/// A region is written anew when it is twice as long as when it was new, and this many bytes.
const SLACK: u64 = 256 << 10;

/// One session as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptSession {
    /// Its id as clients send it.
    pub id: String,
    /// How many daemons served it before.
    pub epoch: u32,
    /// The name of the token that opened it.
    pub token: String,
    /// When that token was made: another one may have its name by now.
    pub token_created_at: UnixMs,
    /// The revision agreed.
    pub version: String,
    /// Raw capabilities of its client.
    pub capabilities: String,
    /// Raw `clientInfo`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The least severe log message it wants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_level: Option<u8>,
    /// Resources it wants to hear of. In entries of their own, since there may be many.
    #[serde(skip)]
    pub subscriptions: HashSet<String>,
    /// The child of its own.
    #[serde(skip)]
    pub member: Option<KeptMember>,
}

/// The child that serves one session alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptMember {
    /// Its number within the instance.
    pub number: u32,
    /// The launch of the main child whose recipe it has.
    pub generation: Generation,
    /// What it speaks.
    pub era: Era,
    /// Its raw answer to the handshake, without instructions.
    pub told: String,
}

impl KeptSession {
    /// Whether this token opened it.
    #[must_use]
    pub fn is_of(&self, token: &Token) -> bool {
        self.token_created_at == token.created_at && token.name.to_string() == self.token
    }

    /// The entry with which it begins.
    #[must_use]
    pub fn opened(mut self) -> Change<'static> {
        match self.member.take() {
            None => Change::Opened(self),
            Some(member) => Change::OpenedAlone {
                session: self,
                member,
            },
        }
    }
}

/// What happened to a session.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Change<'a> {
    /// It began.
    Opened(KeptSession),
    /// It began, with a child of its own. A word of its own, so that a daemon from before, which ends such children, does
    /// not let another one go on in its place.
    OpenedAlone {
        /// The session.
        session: KeptSession,
        /// Its child.
        member: KeptMember,
    },
    /// It asked for log messages.
    Level {
        /// The least severe.
        level: u8,
    },
    /// It subscribed.
    Subscribed {
        /// To this resource.
        uri: Cow<'a, str>,
    },
    /// It subscribes no more.
    Unsubscribed {
        /// To this resource.
        uri: Cow<'a, str>,
    },
    /// It ended.
    Closed,
}

#[derive(Serialize, Deserialize)]
struct Entry<'a, C = Change<'a>> {
    instance: InstanceId,
    session: Cow<'a, str>,
    change: C,
}

type Sessions = BTreeMap<(InstanceId, String), KeptSession>;

fn apply(sessions: &mut Sessions, entry: Entry<'_>) {
    let key = (entry.instance, entry.session.into_owned());
    match (entry.change, sessions.get_mut(&key)) {
        (Change::Opened(session), _) => drop(sessions.insert(key, session)),
        (Change::OpenedAlone { session, member }, _) => {
            let member = Some(member);
            drop(sessions.insert(key, KeptSession { member, ..session }));
        }
        (Change::Closed, _) => drop(sessions.remove(&key)),
        (Change::Level { level }, Some(session)) => session.log_level = Some(level),
        (Change::Subscribed { uri }, Some(session)) => {
            session.subscriptions.insert(uri.into_owned());
        }
        (Change::Unsubscribed { uri }, Some(session)) => {
            session.subscriptions.remove(&*uri);
        }
        (_, None) => {}
    }
}

fn sum(region: u64, text: &[u8]) -> [u8; 8] {
    let mut digest = Sha256::new();
    digest.update(region.to_le_bytes());
    digest.update(text);
    let digest: [u8; 32] = digest.finalize().into();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    first
}

/// One entry as it lies in the file; `None` when it is too long.
fn written(region: u64, entry: &Entry<'_, &Change<'_>>) -> Option<Vec<u8>> {
    let mut bytes = vec![0; ENTRY_HEAD_LEN];
    serde_json::to_writer(&mut bytes, entry).ok()?;
    let text = bytes.len() - ENTRY_HEAD_LEN;
    if text > ENTRY_MAX {
        return None;
    }
    let sum = sum(region, &bytes[ENTRY_HEAD_LEN..]);
    bytes[..4].copy_from_slice(&u32::try_from(text).ok()?.to_le_bytes());
    bytes[4..ENTRY_HEAD_LEN].copy_from_slice(&sum);
    Some(bytes)
}

/// The text of the entry at the front, and its length in the file; `None` at the end of the region.
fn front(region: u64, bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (head, rest) = bytes.split_at_checked(ENTRY_HEAD_LEN)?;
    let len = u32::from_le_bytes(*head.first_chunk()?);
    let len = usize::try_from(len).ok().filter(|len| *len <= ENTRY_MAX)?;
    let text = rest.get(..len).filter(|text| !text.is_empty())?;
    (sum(region, text) == head[4..]).then_some((text, ENTRY_HEAD_LEN + len))
}

struct Book {
    file: File,
    region: u64,
    start: u64,
    end: u64,
    /// How long the region was when it was new, in bytes.
    new_len: u64,
    is_over: bool,
    was_full: bool,
    /// Sessions of a former daemon that nobody has taken back yet.
    left: HashMap<InstanceId, Vec<KeptSession>>,
}

impl Book {
    fn write_header(&self, region: u64, start: u64) -> io::Result<()> {
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..20].copy_from_slice(&region.to_le_bytes());
        bytes[20..28].copy_from_slice(&start.to_le_bytes());
        let check = sum(region, &bytes[..28]);
        bytes[28..].copy_from_slice(&check);
        self.file.write_all_at(&bytes, 0)
    }

    /// Reads region and start.
    fn read_header(file: &File) -> Result<(u64, u64), String> {
        let mut bytes = [0; HEADER_LEN];
        let read = file.read_exact_at(&mut bytes, 0);
        read.map_err(|cause| format!("they cannot be read: {cause}"))?;
        let number = |at: usize| -> u64 {
            let bytes = bytes[at..].first_chunk();
            bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
        };
        if &bytes[..8] != MAGIC {
            return Err("what the keeper holds are no sessions".to_owned());
        }
        let version = u32::try_from(number(8) & u64::from(u32::MAX)).unwrap_or(0);
        if version != VERSION {
            return Err(format!(
                "they were written in version {version}, and this program reads version {VERSION}"
            ));
        }
        let (region, start) = (number(12), number(20));
        if sum(region, &bytes[..28]) != bytes[28..] {
            return Err("their header is damaged".to_owned());
        }
        Ok((region, start))
    }

    /// All that counts now.
    fn read(&self) -> io::Result<Sessions> {
        let file_len = self.file.metadata()?.len();
        let len = file_len.saturating_sub(self.start).min(REGION_MAX * 2);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        self.file.read_exact_at(&mut bytes, self.start)?;
        let (mut sessions, mut rest) = (Sessions::new(), bytes.as_slice());
        while let Some((text, len)) = front(self.region, rest) {
            // One that a later version wrote, with a word that this one does not know, is skipped.
            if let Ok(entry) = serde_json::from_slice(text) {
                apply(&mut sessions, entry);
            }
            rest = &rest[len..];
        }
        Ok(sessions)
    }

    fn write_anew(&mut self, sessions: &Sessions) -> io::Result<()> {
        let region = self.region + 1;
        let mut bytes = Vec::new();
        for ((instance, id), session) in sessions {
            let wishes = session.subscriptions.iter();
            let wishes = wishes.map(|uri| Change::Subscribed {
                uri: Cow::Borrowed(uri.as_str()),
            });
            for change in [session.clone().opened()].into_iter().chain(wishes) {
                let entry = Entry {
                    instance: *instance,
                    session: id.into(),
                    change: &change,
                };
                bytes.extend(written(region, &entry).unwrap_or_default());
            }
        }
        let (front, len) = (HEADER_LEN as u64, bytes.len() as u64);
        let start = if front + len <= self.start {
            front
        } else {
            self.end.max(front)
        };
        self.file.write_all_at(&bytes, start)?;
        self.write_header(region, start)?;
        self.region = region;
        self.start = start;
        self.end = start + len;
        self.new_len = len;
        if start == front {
            // Gives back what lay behind.
            self.file.set_len(self.end)?;
        }
        Ok(())
    }

    fn append(&mut self, instance: InstanceId, session: &str, change: &Change<'_>) -> bool {
        if self.is_over {
            return false;
        }
        if self.end - self.start > self.new_len * 2 + SLACK {
            let anew = self.read().and_then(|sessions| self.write_anew(&sessions));
            if let Err(cause) = anew {
                tracing::warn!(%cause, "what is kept of sessions cannot be written anew");
            }
        }
        let makes_room = matches!(change, Change::Closed | Change::Unsubscribed { .. });
        if self.end - self.start > REGION_MAX && !makes_room {
            if !std::mem::replace(&mut self.was_full, true) {
                tracing::warn!(
                    "there are too many sessions to keep: further ones end with this daemon"
                );
            }
            return false;
        }
        let entry = Entry {
            instance,
            session: session.into(),
            change,
        };
        let Some(bytes) = written(self.region, &entry) else {
            return false;
        };
        let done = self.file.write_all_at(&bytes, self.end);
        if let Err(cause) = &done {
            tracing::warn!(%cause, "a session is not kept");
        } else {
            self.end += bytes.len() as u64;
        }
        done.is_ok()
    }
}

/// The sessions of all instances that the next `serve` will find.
pub struct KeptSessions {
    book: Mutex<Book>,
    opened_at: UnixMs,
}

impl KeptSessions {
    /// Begins in an empty file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn begin(file: File) -> io::Result<Self> {
        Self::with(file, 0, HEADER_LEN as u64, Sessions::new())
    }

    /// Goes on in the file of a former daemon. Every session begins a new epoch.
    ///
    /// # Errors
    /// Why its sessions cannot be taken back, in words.
    pub fn go_on(file: File) -> Result<Self, String> {
        let (region, start) = Book::read_header(&file)?;
        let text = |cause: io::Error| format!("they cannot be read: {cause}");
        let mut sessions = Book::new(file.try_clone().map_err(text)?, region, start)
            .read()
            .map_err(text)?;
        for session in sessions.values_mut() {
            session.epoch = session.epoch.saturating_add(1);
        }
        Self::with(file, region, start, sessions).map_err(text)
    }

    fn with(file: File, region: u64, start: u64, sessions: Sessions) -> io::Result<Self> {
        let mut book = Book::new(file, region, start);
        // Behind all that is there: what is torn at the end must not be in the way.
        book.end = book.file.metadata()?.len();
        book.write_anew(&sessions)?;
        for ((instance, _), session) in sessions {
            book.left.entry(instance).or_default().push(session);
        }
        Ok(Self {
            book: Mutex::new(book),
            opened_at: now_ms(),
        })
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many sessions of a former daemon were not taken back yet.
    #[must_use]
    pub fn left(&self) -> usize {
        self.book().left.values().map(Vec::len).sum()
    }

    /// Hands over the sessions that a former daemon left of an instance; once.
    #[must_use]
    pub fn take(&self, instance: InstanceId) -> Vec<KeptSession> {
        self.book().left.remove(&instance).unwrap_or_default()
    }

    /// Ends those that nobody took back, when this began before `before`.
    pub fn drop_left(&self, before: UnixMs) {
        if self.opened_at >= before {
            return;
        }
        let mut book = self.book();
        for (instance, sessions) in std::mem::take(&mut book.left) {
            for session in sessions {
                book.append(instance, &session.id, &Change::Closed);
            }
        }
    }

    /// Writes what happened to a session; `false` when the next daemon will not know of it.
    pub fn note(&self, instance: InstanceId, session: &str, change: &Change<'_>) -> bool {
        self.book().append(instance, session, change)
    }

    /// Writes nothing any more: what ends now ends for this daemon alone.
    pub fn stop(&self) {
        self.book().is_over = true;
    }
}

impl Book {
    fn new(file: File, region: u64, start: u64) -> Self {
        Self {
            file,
            region,
            start,
            end: start,
            new_len: 0,
            is_over: false,
            was_full: false,
            left: HashMap::new(),
        }
    }
}
