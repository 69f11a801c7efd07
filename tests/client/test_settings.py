"""Defaults of the worker's settings, and values that are rejected."""

from pathlib import Path

import pytest

from recon_worker.settings import WorkerSettings, default_queue_bytes

GIB = 2**30
MEMINFO = f"MemTotal:  {200 * 2**20} kB\nMemAvailable:  {100 * 2**20} kB\n"


def _system(root, **files):
    """Write the files of a machine with 100 GiB available, and others, below `root`. Returns `root`."""
    for name, text in {"proc/meminfo": MEMINFO, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    return root


def _group(path, limit, used=0, cached=0):
    return {
        f"sys/fs/cgroup/{path}memory.max": f"{limit}",
        f"sys/fs/cgroup/{path}memory.current": f"{used}",
        f"sys/fs/cgroup/{path}memory.stat": f"anon 5\ninactive_file {cached}\nactive_file 7",
    }


def test_without_cgroups_the_default_is_a_tenth_of_the_available_memory(tmp_path):
    assert default_queue_bytes(_system(tmp_path)) == 10 * GIB


def test_the_default_is_one_gibibyte_if_the_system_reports_no_memory(tmp_path):
    assert default_queue_bytes(tmp_path) == GIB


@pytest.mark.parametrize("tight", ["", "system.slice/", "system.slice/job_7/", "system.slice/job_7/step_0/"])
def test_the_smallest_limit_of_the_enclosing_cgroups_applies(tmp_path, tight):
    groups = ["", "system.slice/", "system.slice/job_7/", "system.slice/job_7/step_0/"]
    files = {name: text for path in groups for name, text in _group(path, "max", 3 * GIB).items()}
    files |= _group(tight, 20 * GIB, 8 * GIB)
    root = _system(tmp_path, **{"proc/self/cgroup": "0::/system.slice/job_7/step_0"}, **files)

    assert default_queue_bytes(root) == 12 * GIB // 10


def test_the_limit_of_a_container_applies_if_it_sees_only_its_own_cgroup(tmp_path):
    root = _system(tmp_path, **{"proc/self/cgroup": "0::/"}, **_group("", 4 * GIB, GIB))

    assert default_queue_bytes(root) == 3 * GIB // 10


def test_page_cache_counts_as_available_and_a_full_cgroup_gives_zero(tmp_path):
    cached = _system(tmp_path / "a", **{"proc/self/cgroup": "0::/"}, **_group("", 4 * GIB, 4 * GIB, 3 * GIB))
    full = _system(tmp_path / "b", **{"proc/self/cgroup": "0::/"}, **_group("", 4 * GIB, 5 * GIB))

    assert default_queue_bytes(cached) == 3 * GIB // 10
    assert default_queue_bytes(full) == 0


def test_a_limit_above_the_machines_memory_has_no_effect(tmp_path):
    root = _system(tmp_path, **{"proc/self/cgroup": "0::/"}, **_group("", 500 * GIB))

    assert default_queue_bytes(root) == 10 * GIB


def test_limits_of_cgroups_v1_apply(tmp_path):
    group = "sys/fs/cgroup/memory/slurm/job_7"
    root = _system(
        tmp_path,
        **{
            "proc/self/cgroup": "5:cpu,cpuacct:/slurm/job_7\n3:memory:/slurm/job_7",
            f"{group}/memory.limit_in_bytes": f"{6 * GIB}",
            f"{group}/memory.usage_in_bytes": f"{2 * GIB}",
            f"{group}/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB}",
        },
    )

    assert default_queue_bytes(root) == 5 * GIB // 10


@pytest.mark.parametrize("depth", [0, -1, 65])
def test_a_depth_out_of_range_is_rejected(depth):
    with pytest.raises(ValueError, match=f"depth is {depth}; allowed: 1 to 64, or None"):
        WorkerSettings(spool_dir=Path("spool"), depth=depth)


def test_a_spool_directory_may_be_a_string(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert WorkerSettings(spool_dir="spool").spool_dir == tmp_path / "spool"
