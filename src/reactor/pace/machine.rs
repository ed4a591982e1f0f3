//! What the process may have of the machine.

use std::fs;
use std::path::{Path, PathBuf};

/// The memory that the process may have, in bytes: its control groups', or the machine's. `None` where neither is known.
pub(super) fn memory() -> Option<usize> {
    let groups =
        fs::read_to_string("/proc/self/cgroup").map(|text| limit_of_groups(&text, &read)).ok().flatten();
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    [groups, machine].into_iter().flatten().min()
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// The least of what the groups of `/proc/self/cgroup` may have, each with those above it: cgroups(7), and memory.max and
/// memory.limit_in_bytes in the kernel's documentation of its two versions.
fn limit_of_groups(groups: &str, read: &impl Fn(&Path) -> Option<String>) -> Option<usize> {
    let of_group = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            list if list.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let group = PathBuf::from(root).join(path.trim_start_matches('/'));
        let above = group.ancestors().take_while(|path| path.starts_with(root));
        // "max" is no number, and no limit.
        above.filter_map(|path| read(&path.join(file))?.trim().parse::<usize>().ok()).min()
    };
    groups.lines().filter_map(of_group).min()
}

/// The machine's, by `/proc/meminfo`: proc_meminfo(5).
fn total(text: &str) -> Option<usize> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_of_all_groups_counts() {
        let files = |path: &Path| {
            let text = match path.to_str()? {
                "/sys/fs/cgroup/memory.max" => "max\n",
                "/sys/fs/cgroup/app/memory.max" => "1000\n",
                "/sys/fs/cgroup/app/job/memory.max" => "5000\n",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes" => "700\n",
                _ => return None,
            };
            Some(text.to_owned())
        };
        let limit = |groups: &str| limit_of_groups(groups, &files);
        assert_eq!(limit("0::/app/job\n"), Some(1000));
        assert_eq!(limit("0::/\n"), None);
        assert_eq!(limit("5:cpu,memory:/x\n4:cpuset:/\n0::/app\n"), Some(700));
        assert_eq!(limit("nonsense\n::\n"), None);
    }

    #[test]
    fn the_machine_tells_its_memory() {
        assert_eq!(total("MemFree: 3 kB\nMemTotal:       24 kB\n"), Some(24 << 10));
        assert_eq!(total("MemTotal: much\n"), None);
        if cfg!(target_os = "linux") {
            assert!(memory().is_some_and(|bytes| bytes > 1 << 20));
        }
    }
}
