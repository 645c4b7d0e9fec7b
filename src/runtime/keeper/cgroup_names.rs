//! How the cgroups below the keeper are called, and where they lie.

use std::path::{Path, PathBuf};

use crate::{
    domain::{id::Generation, reconcile::LiveChild},
    runtime::WorkloadId,
};

/// Where the keeper is itself.
pub(in crate::runtime) const OWN: &str = "keeper";
/// Begins the name of every child's cgroup.
pub(in crate::runtime) const CHILD: &str = "child-";

/// The name of a child's cgroup.
pub(super) fn name_of(id: WorkloadId) -> String {
    format!("{CHILD}{}", id.to_string().replace('/', "-"))
}

/// Whose cgroup has this name; `None`: it is of no child.
pub(in crate::runtime) fn child_named(name: &str) -> Option<LiveChild> {
    let (instance, launch) = name.strip_prefix(CHILD)?.rsplit_once('-')?;
    let (generation, member) = launch.split_once('.').unwrap_or((launch, "0"));
    Some(LiveChild {
        instance: instance.parse().ok()?,
        generation: Generation(generation.parse().ok()?),
        member: member.parse().ok()?,
    })
}

/// The folder of the cgroup `path` below a mount, if that mount is of the kind and shows it.
pub(in crate::runtime) fn folder_in(mount: &str, kind: &str, path: &str) -> Option<PathBuf> {
    let (place, filesystem) = mount.split_once(" - ")?;
    let mut filesystem = filesystem.split(' ');
    let is_kind = filesystem.next()? == kind;
    let options = filesystem.nth(1).unwrap_or_default();
    let is_memory = kind == "cgroup2" || options.split(',').any(|option| option == "memory");
    if !is_kind || !is_memory {
        return None;
    }
    let mut place = place.split(' ').skip(3);
    let (root, point) = (place.next()?, place.next()?);
    let below = Path::new(path).strip_prefix(root).ok()?;
    Some(Path::new(point).join(below))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::InstanceId;

    #[test]
    fn the_name_of_a_cgroup_reads_back() {
        let instance = InstanceId(uuid::Uuid::from_u128(7));
        for member in [0, 3] {
            let generation = Generation(12);
            let id = WorkloadId {
                instance,
                generation,
                member,
            };
            let child = LiveChild {
                instance,
                generation,
                member,
            };
            let name = name_of(id);
            assert_eq!(child_named(&name), Some(child), "{name}");
        }
        for nothing in ["child-probe", "child-", "", "child-x-1", "keeper"] {
            assert_eq!(child_named(nothing), None);
        }
    }
}
