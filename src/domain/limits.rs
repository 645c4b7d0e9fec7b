//! The `[limits]` of a template. Where a number is of one process, rlimits hold it (setrlimit(2)); where it is of all
//! processes of a child together, its cgroup does, on hosts that give the keeper a part of the tree.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Memory of a child when its template does not say: 2 GiB.
const MEMORY_BYTES: u64 = 2 << 30;

/// Disk use of an instance when its template does not say: 4 GiB.
const DISK_BYTES: u64 = 4 << 30;

/// Limits of one child of an instance: of the main child, and again of the child of each client session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Processes and threads (`RLIMIT_NPROC`, `pids.max`).
    pub max_processes: u64,
    /// Open descriptors in each process (`RLIMIT_NOFILE`).
    pub max_open_files: u64,
    /// Size of a file it writes, in bytes (`RLIMIT_FSIZE`).
    pub max_file_size_bytes: u64,
    /// Address space of each process, in bytes (`RLIMIT_AS`); unfit for Node, which maps far more than it uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_address_space_bytes: Option<u64>,
    /// Memory of all its processes, page cache included, in bytes (`memory.max`); past it the kernel ends them all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_memory_bytes: Option<u64>,
    /// Past so many bytes it is slowed down and its memory reclaimed (`memory.high`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_high_bytes: Option<u64>,
    /// CPU time, in percent of one CPU (`cpu.max`): 250 is two CPUs and a half.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_cpu_percent: Option<u64>,
    /// Share of the CPU when there is not enough for all, 1 to 10000 (`cpu.weight`); the kernel's own number is 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<u64>,
    /// Share of the disks' time in the same way (`io.weight`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_weight: Option<u64>,
    /// What the instance's folder may take of the disk, in bytes; measured every half minute, and past it the instance
    /// fails until somebody starts it again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_disk_bytes: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_processes: 256,
            max_open_files: 1_024,
            max_file_size_bytes: 1 << 30,
            max_address_space_bytes: None,
            max_memory_bytes: Some(MEMORY_BYTES),
            memory_high_bytes: None,
            max_cpu_percent: None,
            cpu_weight: None,
            io_weight: None,
            max_disk_bytes: Some(DISK_BYTES),
        }
    }
}

impl Limits {
    /// What a cgroup holds of them.
    #[must_use]
    pub fn resources(&self) -> Resources {
        Resources {
            processes: Some(self.max_processes),
            memory_bytes: self.max_memory_bytes,
            memory_high_bytes: self.memory_high_bytes,
            cpu_percent: self.max_cpu_percent,
            cpu_weight: self.cpu_weight,
            io_weight: self.io_weight,
        }
    }
}

/// What the cgroup of one child holds; `None`: no limit. The fields are those of [`Limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Processes and threads.
    pub processes: Option<u64>,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Memory in bytes from which on it is slowed down.
    pub memory_high_bytes: Option<u64>,
    /// CPU time in percent of one CPU.
    pub cpu_percent: Option<u64>,
    /// Share of the CPU.
    pub cpu_weight: Option<u64>,
    /// Share of the disks' time.
    pub io_weight: Option<u64>,
}
