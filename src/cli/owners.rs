//! `minimcp owners`: what each owner has, and what its budget allows.

use super::{failure::Failure, output::Output};
use crate::{client::Client, wire::Owner};

pub(super) async fn print(client: &Client, out: Output) -> Result<(), Failure> {
    let reply = client.owners().await?;
    if out.json {
        return out.line(reply.json());
    }
    let items = reply.read()?.items;
    if items.is_empty() {
        return out.line("Nobody has an instance or a budget of its own.");
    }
    out.line(&listed(&items, out))
}

fn listed(items: &[Owner], out: Output) -> String {
    let rows = items.iter().map(|one| {
        let budget = &one.budget;
        let mib = |bytes: u64| format!("{} MiB", bytes.div_ceil(1 << 20));
        [
            one.owner.clone(),
            of(
                Some(one.instances.to_string()),
                budget.instances_max.map(|most| most.to_string()),
            ),
            of(
                Some(one.awake.to_string()),
                budget.awake_max.map(|most| most.to_string()),
            ),
            of(one.memory_bytes.map(mib), budget.memory_bytes_max.map(mib)),
        ]
    });
    out.table(["owner", "instances", "awake", "memory"], rows.collect())
}

/// What is used, of what is allowed where that has a bound.
fn of(used: Option<String>, most: Option<String>) -> String {
    let used = used.unwrap_or_else(|| "-".to_owned());
    match most {
        Some(most) => format!("{used} of {most}"),
        None => used,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::OwnerBudget;

    #[test]
    fn what_is_used_stands_before_what_is_allowed() {
        let owner = |name: &str, memory_bytes, awake_max| Owner {
            owner: name.to_owned(),
            instances: 3,
            awake: 1,
            memory_bytes,
            budget: OwnerBudget {
                instances_max: None,
                awake_max,
                memory_bytes_max: None,
            },
        };
        let items = [
            owner("ada", Some(5 << 20), Some(2)),
            owner("bob", None, None),
        ];
        let text = listed(&items, Output::plain());
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| {
                line.split("  ")
                    .map(str::trim)
                    .filter(|word| !word.is_empty())
                    .collect()
            })
            .collect();
        assert_eq!(lines[1], ["ada", "3", "1 of 2", "5 MiB"], "{text}");
        assert_eq!(lines[2], ["bob", "3", "1", "-"], "{text}");
    }
}
