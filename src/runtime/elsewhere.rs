//! A server that is none of our processes, in the shape of a child: it "runs" from the moment that it is made until it
//! is told to end. So an instance of one has the same life as any other, and no keeper is asked for it.

use std::{os::fd::OwnedFd, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::{ExitReport, Isolation, RuntimeError, Verb, Workload, WorkloadControl, WorkloadId};
use crate::domain::exit::{ExitStatus, ResourceUsage};

/// Our side of a server elsewhere. It has no pid (0), no pipes and no isolation.
#[must_use]
pub fn elsewhere(id: WorkloadId) -> Workload {
    let exit = watch::Sender::new(None);
    let seen = exit.subscribe();
    let control = Arc::new(Connection { exit });
    Workload::new(id, 0, None, Isolation::default(), None, seen, control)
}

struct Connection {
    exit: watch::Sender<Option<ExitReport>>,
}

impl WorkloadControl for Connection {
    fn perform(&self, _id: WorkloadId, verb: Verb) -> BoxFuture<'_, Result<(), RuntimeError>> {
        if !matches!(
            verb,
            Verb::Forget | Verb::Freeze | Verb::Thaw | Verb::Reclaim
        ) {
            self.exit.send_if_modified(|exit| {
                let first = exit.is_none();
                exit.get_or_insert(ExitReport {
                    status: ExitStatus::Disconnected { cause: None },
                    usage: ResourceUsage::default(),
                });
                first
            });
        }
        Box::pin(async { Ok(()) })
    }

    fn sockets_inside(
        &self,
        _id: WorkloadId,
        _count: u8,
    ) -> BoxFuture<'_, Result<Vec<OwnedFd>, RuntimeError>> {
        let refused = RuntimeError::Refused("a server elsewhere has no network of ours".to_owned());
        Box::pin(async { Err(refused) })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use uuid::Uuid;

    use super::*;
    use crate::domain::id::{Generation, InstanceId};

    #[tokio::test]
    async fn it_runs_until_it_is_told_to_end() {
        for verb in [Verb::CloseStdin, Verb::Terminate, Verb::KillTree] {
            let id = WorkloadId::main(InstanceId(Uuid::from_u128(1)), Generation(3));
            let workload = elsewhere(id);
            workload.forget().await.expect("nothing to forget");
            assert!(workload.exited().now_or_never().is_none(), "it runs");
            assert!(workload.take_pipes().is_none() && !workload.has_own_network());
            match verb {
                Verb::CloseStdin => workload.close_stdin().await,
                Verb::Terminate => workload.terminate().await,
                _ => workload.kill_tree().await,
            }
            .expect("it takes verbs");
            let status = workload.exited().await.status;
            assert_eq!(status, ExitStatus::Disconnected { cause: None });
        }
    }
}
