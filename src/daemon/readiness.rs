//! What `/readyz` asks of the parts of the daemon.

use crate::{api::ReadinessCheck, runtime::KeeperState, store::Store, supervisor::Supervisor};

/// The checks; of what this process gave up it tells what came of it, where that was tried.
pub(super) fn checks(
    store: &Store,
    supervisor: &Supervisor,
    own_files: Option<Result<bool, String>>,
    own_calls: Option<Result<(), String>>,
) -> Vec<ReadinessCheck> {
    let (store, keeper) = (store.clone(), supervisor.keeper());
    let records = supervisor.clone();
    let mut checks = vec![
        ReadinessCheck {
            name: "database",
            required: true,
            ask: Box::new(move || {
                let store = store.clone();
                Box::pin(async move { store.ping().await.map_err(|error| error.to_string()) })
            }),
        },
        ReadinessCheck {
            name: "keeper",
            required: true,
            ask: Box::new(move || {
                let connected = matches!(*keeper.borrow(), KeeperState::Connected { .. });
                Box::pin(async move {
                    if connected {
                        Ok(())
                    } else {
                        Err("the keeper is away".to_owned())
                    }
                })
            }),
        },
        ReadinessCheck {
            name: "records",
            required: false,
            ask: Box::new(move || {
                let damaged = records.damaged_records();
                Box::pin(async move {
                    if damaged.is_empty() {
                        Ok(())
                    } else {
                        Err(damaged.join("; "))
                    }
                })
            }),
        },
    ];
    let part = || Err("the kernel holds only a part of it: it is older than 6.12".to_owned());
    let files = own_files.map(|held| held.and_then(|whole| if whole { Ok(()) } else { part() }));
    for (name, held) in [
        ("own-files", files.as_ref()),
        ("own-system-calls", own_calls.as_ref()),
    ] {
        if let Some(held) = held {
            let held = held.clone();
            checks.push(ReadinessCheck {
                name,
                required: false,
                ask: Box::new(move || {
                    let held = held.clone();
                    Box::pin(async move { held })
                }),
            });
        }
    }
    checks
}
