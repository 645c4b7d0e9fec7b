//! One connection to the keeper, on the async side.

use std::{
    collections::{HashMap, VecDeque},
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::memfd::{MFdFlags, memfd_create},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{mpsc, oneshot, watch},
};
use zeroize::Zeroizing;

use super::{
    ExitReport, HostReport, Pidfd, RuntimeError, Verb, WorkloadId, channel,
    keeper::protocol::{
        BODY_MAX, Event, HEADER_LEN, Header, Kind, PACKET_MAX, Reply, Request, decode_json,
    },
};

/// Most requests that wait for an answer at the same time.
const PENDING_MAX: usize = 32;
/// How long a greeting may take: longer than the longest launch, during which the keeper hears nobody.
const GREETING_TIMEOUT: Duration = Duration::from_secs(15);

/// What is said of a launch, or of an answer that came without its descriptors.
pub(super) const NO_ROOM: &str = "minimcp serve has no free descriptor for the pipes: give it more (LimitNOFILE of its unit, ulimit -n), \
                       or run fewer instances";

/// A request on its way.
pub(super) struct Call {
    pub(super) request: Request,
    /// Go behind the request, in this order.
    pub(super) secrets: Vec<Zeroizing<String>>,
    pub(super) descriptors: Vec<OwnedFd>,
    /// Dropped unanswered when the connection is lost.
    pub(super) reply: oneshot::Sender<Result<Answer, RuntimeError>>,
}

/// What came back.
pub(super) struct Answer {
    pub(super) reply: Reply,
    pub(super) descriptors: Vec<OwnedFd>,
}

/// A workload whose end is awaited.
#[derive(Default)]
struct Awaited {
    exit: watch::Sender<Option<ExitReport>>,
    pidfd: Option<Arc<Pidfd>>,
}

/// A workload whose keeper was lost before its end was told.
pub(super) struct Lost {
    pub(super) id: WorkloadId,
    awaited: Awaited,
}

impl Lost {
    /// Tells its end as soon as its tree is really gone: the kernel kills what a dead keeper had started, but not in
    /// no time, and a keeper that lives after all is told to. At once where there is no pidfd to see it by.
    pub(super) async fn tell_end(self) {
        let id = self.id;
        if let Some(pidfd) = &self.awaited.pidfd
            && let Err(cause) = pidfd.ended().await
        {
            tracing::warn!(workload = %id, %cause, "its end cannot be seen; it is taken for gone");
        }
        self.awaited.exit.send_modify(|exit| {
            exit.get_or_insert_with(ExitReport::keeper_lost);
        });
    }
}

/// Where the ends of workloads are told.
#[derive(Default)]
pub(super) struct Exits {
    by_id: Mutex<HashMap<WorkloadId, Awaited>>,
    /// What was taken back of those that held still.
    reclaimed_bytes: AtomicU64,
}

impl Exits {
    fn with<T>(&self, use_it: impl FnOnce(&mut HashMap<WorkloadId, Awaited>) -> T) -> T {
        use_it(&mut self.by_id.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where the end of `id` will be told.
    pub(super) fn subscribe(&self, id: WorkloadId) -> watch::Receiver<Option<ExitReport>> {
        self.with(|by_id| by_id.entry(id).or_default().exit.subscribe())
    }

    /// Keeps what tells the end of `id` when its keeper cannot.
    pub(super) fn watch(&self, id: WorkloadId, pidfd: &Arc<Pidfd>) {
        self.with(|by_id| by_id.entry(id).or_default().pidfd = Some(Arc::clone(pidfd)));
    }

    /// Tells the end of `id`, unless one was told already.
    pub(super) fn tell(&self, id: WorkloadId, report: ExitReport) {
        self.with(|by_id| {
            by_id.entry(id).or_default().exit.send_if_modified(|exit| {
                let news = exit.is_none();
                exit.get_or_insert(report);
                news
            });
        });
    }

    pub(super) fn count_reclaimed(&self, bytes: u64) {
        self.reclaimed_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn reclaimed_bytes(&self) -> u64 {
        self.reclaimed_bytes.load(Ordering::Relaxed)
    }

    /// No longer needed.
    pub(super) fn remove(&self, id: WorkloadId) {
        self.with(|by_id| by_id.remove(&id));
    }

    /// No longer needed, if nobody waits for it.
    pub(super) fn remove_unused(&self, id: WorkloadId) {
        self.with(|by_id| by_id.retain(|at, of| *at != id || of.exit.receiver_count() > 0));
    }

    /// The keeper is lost: hands over those whose end was not told.
    pub(super) fn lose_all(&self) -> Vec<Lost> {
        self.with(std::mem::take)
            .into_iter()
            .filter(|(_, awaited)| awaited.exit.borrow().is_none())
            .map(|(id, awaited)| Lost { id, awaited })
            .collect()
    }
}

/// A greeted connection.
pub(super) struct Connection {
    socket: AsyncFd<OwnedFd>,
    next_request: u64,
    /// Who answers.
    pub(super) keeper_pid: u32,
    /// What it enforces.
    pub(super) host: HostReport,
}

/// Registers a descriptor with the reactor of the present runtime.
pub(super) fn watched(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open and stays the same description until the `AsyncFd` drops it.
    unsafe { AsyncFd::register(socket) }.map_err(io::Error::from)
}

struct Packet {
    bytes: Zeroizing<Vec<u8>>,
    descriptors: Vec<OwnedFd>,
}

/// A packet of the keeper.
struct Told {
    header: Header,
    /// The whole packet.
    bytes: Vec<u8>,
    /// `None`: there were some, and this process had no room for them.
    descriptors: Option<Vec<OwnedFd>>,
}

struct Pending {
    reply: oneshot::Sender<Result<Answer, RuntimeError>>,
    launch: Option<WorkloadId>,
}

impl Connection {
    /// Connects and greets.
    pub(super) async fn open(path: &Path) -> Result<Self, RuntimeError> {
        let unreachable =
            |cause: io::Error| RuntimeError::Unreachable(format!("{}: {cause}", path.display()));
        let socket = channel::connect_to(path)
            .and_then(watched)
            .map_err(unreachable)?;
        let mut connection = Self {
            socket,
            next_request: 1,
            keeper_pid: 0,
            host: HostReport::default(),
        };
        let greeting = connection.exchange(Request::Hello {
            members: true,
            denials: true,
            freezes: true,
        });
        let reply = tokio::time::timeout(GREETING_TIMEOUT, greeting)
            .await
            .map_err(|_| RuntimeError::Unreachable("it does not answer".into()))??;
        let Reply::Welcome { pid, host } = reply else {
            return Err(RuntimeError::Unreachable("it does not greet back".into()));
        };
        connection.keeper_pid = pid;
        connection.host = host;
        Ok(connection)
    }

    /// Kills and forgets children whose end was already told as lost.
    pub(super) async fn clear(&mut self, lost: &[WorkloadId]) -> Result<(), RuntimeError> {
        for id in lost {
            for verb in [Verb::KillTree, Verb::Forget] {
                self.exchange(Request::Perform { id: *id, verb }).await?;
            }
        }
        Ok(())
    }

    /// Asks and waits, before anything else goes over this connection.
    async fn exchange(&mut self, request: Request) -> Result<Reply, RuntimeError> {
        let number = self.number();
        let packet = encode(number, &request, &[], Vec::new())?;
        // A keeper that refuses us hangs up without reading. Its refusal is still there to be read, but an
        // error of the connection may be reported before it.
        let mut may_fail = self.send(&packet).await.is_ok();
        loop {
            let Told { header, bytes, .. } = match self.receive().await {
                Ok(received) => received,
                Err(cause) if may_fail && cause.kind() == io::ErrorKind::ConnectionReset => {
                    may_fail = false;
                    continue;
                }
                Err(_) => return Err(RuntimeError::Lost),
            };
            if header.kind != Kind::Reply || (header.request != number && header.request != 0) {
                continue;
            }
            let json = bytes.get(HEADER_LEN..).unwrap_or_default();
            return match decode_json(json) {
                Ok(Reply::Refused { reason }) => Err(RuntimeError::Refused(reason)),
                Ok(reply) => Ok(reply),
                Err(fault) => Err(RuntimeError::Unreachable(fault.to_string())),
            };
        }
    }

    /// Carries calls and tells ends, until the connection is lost or `calls` is closed.
    pub(super) async fn serve(mut self, calls: &mut mpsc::Receiver<Call>, exits: &Exits) {
        let mut pending: HashMap<u64, Pending> = HashMap::new();
        let mut out: VecDeque<Packet> = VecDeque::new();
        loop {
            let may_ask = out.is_empty() && pending.len() < PENDING_MAX;
            tokio::select! {
                biased;
                received = self.receive() => {
                    let Ok(Told { header, bytes, descriptors }) = received else { return };
                    let json = bytes.get(HEADER_LEN..).unwrap_or_default();
                    match header.kind {
                        Kind::Event => {
                            match decode_json(json) {
                                Ok(Event::Exited { id, report }) => exits.tell(id, report),
                                Ok(Event::Reclaimed { bytes }) => exits.count_reclaimed(bytes),
                                Err(_) => {}
                            }
                        }
                        Kind::Reply => {
                            let Some(waiting) = pending.remove(&header.request) else { continue };
                            let reply = decode_json(json);
                            for verb in settle(waiting, reply, descriptors) {
                                let number = self.number();
                                if let Ok(packet) = encode(number, &verb, &[], Vec::new()) {
                                    out.push_back(packet);
                                }
                            }
                        }
                        Kind::Request => return,
                    }
                }
                sent = async { match out.front() {
                    Some(packet) => self.send(packet).await,
                    None => std::future::pending().await,
                } } => {
                    if sent.is_err() { return }
                    out.pop_front();
                }
                call = calls.recv(), if may_ask => {
                    let Some(call) = call else { return };
                    let number = self.number();
                    let launch = match &call.request {
                        Request::Launch(launch) => Some(launch.id),
                        _ => None,
                    };
                    match encode(number, &call.request, &call.secrets, call.descriptors) {
                        Ok(packet) => {
                            out.push_back(packet);
                            pending.insert(number, Pending { reply: call.reply, launch });
                        }
                        // Nobody waits any more if this fails.
                        Err(error) => drop(call.reply.send(Err(error))),
                    }
                }
            }
        }
    }

    fn number(&mut self) -> u64 {
        let number = self.next_request;
        self.next_request += 1;
        number
    }

    async fn send(&self, packet: &Packet) -> io::Result<()> {
        let descriptors = channel::borrow_all(&packet.descriptors);
        self.socket
            .async_io(Interest::WRITABLE, |socket| {
                Ok(channel::send(
                    socket.as_fd(),
                    &[&packet.bytes],
                    &descriptors,
                )?)
            })
            .await
    }

    async fn receive(&self) -> io::Result<Told> {
        let mut buffer = Vec::new();
        let received = self
            .socket
            .async_io(Interest::READABLE, |socket| {
                // Made only when something is there: an idle connection holds no buffer.
                buffer.resize(PACKET_MAX, 0);
                Ok(channel::receive(socket.as_fd(), &mut buffer)?)
            })
            .await?;
        buffer.truncate(received.len);
        if buffer.is_empty() || received.truncated {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let header = Header::decode(&buffer).map_err(io::Error::other)?;
        Ok(Told {
            header,
            bytes: buffer,
            descriptors: (!received.descriptors_lost).then_some(received.descriptors),
        })
    }
}

/// Hands an answer to its caller; what to ask next when nobody has the pipes of a child that was launched: the caller
/// went away meanwhile, or this process had no room for them.
fn settle(
    waiting: Pending,
    reply: Result<Reply, super::keeper::protocol::Malformed>,
    descriptors: Option<Vec<OwnedFd>>,
) -> Vec<Request> {
    let launched = matches!(&reply, Ok(Reply::Launched { .. }));
    let answer = match (reply, descriptors) {
        (Ok(Reply::Refused { reason }), _) => Err(RuntimeError::Refused(reason)),
        (Ok(reply), Some(descriptors)) => Ok(Answer { reply, descriptors }),
        (Ok(_), None) => Err(RuntimeError::Refused(NO_ROOM.to_owned())),
        (Err(fault), _) => Err(RuntimeError::Refused(fault.to_string())),
    };
    let had_room = answer.is_ok();
    let heard = waiting.reply.send(answer).is_ok();
    match waiting.launch {
        Some(id) if launched && !(had_room && heard) => [Verb::KillTree, Verb::Forget]
            .map(|verb| Request::Perform { id, verb })
            .into(),
        _ => Vec::new(),
    }
}

fn encode(
    number: u64,
    request: &Request,
    secrets: &[Zeroizing<String>],
    mut descriptors: Vec<OwnedFd>,
) -> Result<Packet, RuntimeError> {
    let refused = |reason: String| RuntimeError::Refused(reason);
    let json = serde_json::to_vec(request).map_err(|fault| refused(fault.to_string()))?;
    let secret_len = secrets.iter().map(|secret| secret.len()).sum();
    let mut header = Header {
        kind: Kind::Request,
        in_memfd: false,
        request: number,
        json_len: json.len(),
        secret_len,
    };
    if header.body_len() > BODY_MAX {
        return Err(refused(format!("the plan is longer than {BODY_MAX} bytes")));
    }
    // Made at its full length: growing would leave copies of secrets behind.
    let mut body = Zeroizing::new(Vec::with_capacity(HEADER_LEN + header.body_len()));
    header.in_memfd = HEADER_LEN + header.body_len() > PACKET_MAX;
    body.extend_from_slice(&header.encode());
    body.extend_from_slice(&json);
    for secret in secrets {
        body.extend_from_slice(secret.as_bytes());
    }
    if header.in_memfd {
        let file = sealed(&body[HEADER_LEN..]).map_err(|cause| refused(cause.to_string()))?;
        descriptors.insert(0, file);
        body = Zeroizing::new(header.encode().to_vec());
    }
    Ok(Packet {
        bytes: body,
        descriptors,
    })
}

/// A memfd with this content, which nobody can change any more.
fn sealed(content: &[u8]) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = std::fs::File::from(memfd_create(c"minimcp-plan", flags)?);
    io::Write::write_all(&mut file, content)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::all()))?;
    Ok(file.into())
}
