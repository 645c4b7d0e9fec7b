//! Which owners are near what they may have, for `doctor`.

use super::doctor::{Check, Verdict, check};
use crate::{client::Client, wire::Owner};

const PART: &str = "budgets";
/// From so many hundredths of a bound on it is said aloud.
const WARN_PERCENT: u64 = 80;
/// Most bounds that are told one by one, the fullest.
const TOLD_MAX: usize = 10;

pub(super) async fn checks(client: &Client) -> Vec<Check> {
    match client.owners().await.and_then(|page| page.read()) {
        Ok(page) => judge(&page.items),
        Err(error) => vec![check(PART, Verdict::Failed, error.to_string())],
    }
}

/// What one owner uses of one bound.
struct Share {
    percent: u64,
    text: String,
}

fn judge(owners: &[Owner]) -> Vec<Check> {
    let mut bounded = 0;
    let mut full = Vec::new();
    for owner in owners {
        let shares = shares(owner);
        bounded += usize::from(!shares.is_empty());
        full.extend(shares.into_iter().filter(|one| one.percent >= WARN_PERCENT));
    }
    if bounded == 0 {
        return Vec::new();
    }
    full.sort_by_key(|one| std::cmp::Reverse(one.percent));
    let rest = full.len().saturating_sub(TOLD_MAX);
    let mut checks: Vec<Check> = full
        .into_iter()
        .take(TOLD_MAX)
        .map(|one| check(PART, Verdict::Warning, one.text))
        .collect();
    if rest > 0 {
        let text = format!("{rest} more are as near; minimcp owners lists all");
        checks.push(check(PART, Verdict::Warning, text));
    }
    if checks.is_empty() {
        let text = format!("of {bounded} owners with a budget nobody is near it");
        checks.push(check(PART, Verdict::Ok, text));
    }
    checks
}

fn shares(owner: &Owner) -> Vec<Share> {
    let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let budget = &owner.budget;
    let [instances, awake] = [budget.instances_max, budget.awake_max].map(|most| most.map(number));
    let name = &owner.owner;
    let mut shares = Vec::new();
    let mut add = |used: u64, most: Option<u64>, text: &dyn Fn(u64) -> String| {
        if let Some(most) = most {
            let percent = used.saturating_mul(100) / most.max(1);
            let text = text(most);
            shares.push(Share { percent, text });
        }
    };
    let has = number(owner.instances);
    add(has, instances, &|most| {
        format!("{name} has {has} of {most} instances (instances_max)")
    });
    let up = number(owner.awake);
    add(up, awake, &|most| {
        format!("{name} has {up} of {most} instances awake (awake_max)")
    });
    let bytes = owner.memory_bytes.unwrap_or(0);
    add(bytes, budget.memory_bytes_max, &|most| {
        let (used, most) = (mib(bytes), mib(most));
        format!("the instances of {name} use {used} of {most} MiB (memory_bytes_max)")
    });
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::OwnerBudget;

    fn owner(name: &str, awake: usize, awake_max: Option<usize>, memory: Option<u64>) -> Owner {
        Owner {
            owner: name.to_owned(),
            instances: 3,
            awake,
            memory_bytes: Some(9 << 20),
            budget: OwnerBudget {
                instances_max: None,
                awake_max,
                memory_bytes_max: memory,
            },
        }
    }

    #[test]
    fn who_is_near_is_named_the_fullest_first() {
        assert_eq!(judge(&[owner("ada", 3, None, None)]), []);
        let calm = judge(&[
            owner("ada", 7, Some(10), None),
            owner("bob", 0, Some(0), None),
        ]);
        let text = "of 2 owners with a budget nobody is near it";
        assert_eq!(calm, [check(PART, Verdict::Ok, text)]);
        let near = judge(&[
            owner("ada", 8, Some(10), None),
            owner("bob", 1, Some(9), Some(9 << 20)),
        ]);
        assert_eq!(
            near,
            [
                check(
                    PART,
                    Verdict::Warning,
                    "the instances of bob use 9 of 9 MiB (memory_bytes_max)"
                ),
                check(
                    PART,
                    Verdict::Warning,
                    "ada has 8 of 10 instances awake (awake_max)"
                ),
            ]
        );
        let many: Vec<_> = (0..12)
            .map(|at| owner(&format!("o{at}"), 1, Some(1), None))
            .collect();
        let told = judge(&many);
        assert_eq!(told.len(), TOLD_MAX + 1);
        let last = &told[TOLD_MAX].message;
        assert!(last.starts_with("2 more are as near"), "{last}");
    }
}
