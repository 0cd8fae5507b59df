from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from lagar.server import limits


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "proc/self").mkdir(parents=True)
    return tmp_path


def groups(root: Path, *lines: str) -> None:
    (root / "proc/self/cgroup").write_text("".join(line + "\n" for line in lines))


def write(root: Path, path: str, text: str) -> None:
    file = root / "sys/fs/cgroup" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n")


def test_a_machine_without_cgroups_has_no_quota(tmp_path: Path) -> None:
    assert limits.quota(tmp_path) == math.inf


def test_a_quota_of_version_2_is_read(root: Path) -> None:
    groups(root, "0::/app")
    write(root, "app/cpu.max", "250000 100000")
    assert limits.quota(root) == 2.5


def test_no_limit_of_version_2_is_no_quota(root: Path) -> None:
    groups(root, "0::/app")
    write(root, "app/cpu.max", "max 100000")
    assert limits.quota(root) == math.inf


def test_the_smallest_quota_on_the_way_to_the_root_counts(root: Path) -> None:
    groups(root, "0::/pod/container")
    write(root, "pod/container/cpu.max", "400000 100000")
    write(root, "pod/cpu.max", "150000 100000")
    write(root, "cpu.max", "max 100000")
    assert limits.quota(root) == 1.5


def test_a_container_finds_its_quota_at_the_mount_point(root: Path) -> None:
    groups(root, "0::/docker/0123456789ab")
    write(root, "cpu.max", "50000 100000")
    assert limits.quota(root) == 0.5


def test_a_path_above_the_mounted_tree_does_not_leave_it(root: Path) -> None:
    groups(root, "0::/../../other")
    write(root, "cpu.max", "50000 100000")
    (root / "sys/cpu.max").write_text("1 100000")
    assert limits.quota(root) == 0.5


@pytest.mark.parametrize("controllers", ["cpu", "cpu,cpuacct", "cpuacct,cpu"])
def test_a_quota_of_version_1_is_read(root: Path, controllers: str) -> None:
    groups(root, "5:memory:/app", f"4:{controllers}:/app", "1:name=systemd:/")
    write(root, f"{controllers}/app/cpu.cfs_quota_us", "300000")
    write(root, f"{controllers}/app/cpu.cfs_period_us", "100000")
    assert limits.quota(root) == 3.0


def test_minus_one_of_version_1_is_no_quota(root: Path) -> None:
    groups(root, "4:cpu,cpuacct:/app")
    write(root, "cpu,cpuacct/app/cpu.cfs_quota_us", "-1")
    write(root, "cpu,cpuacct/app/cpu.cfs_period_us", "100000")
    assert limits.quota(root) == math.inf


@pytest.mark.parametrize("text", ["", "what 100000", "100000", "100000 0"])
def test_a_file_that_does_not_read_as_a_quota_is_none(root: Path, text: str) -> None:
    groups(root, "0::/")
    write(root, "cpu.max", text)
    assert limits.quota(root) == math.inf


def test_affinity_and_quota_both_bound_the_cores(root: Path) -> None:
    groups(root, "0::/")
    write(root, "cpu.max", "6400000 100000")
    assert limits.cores(root) == len(os.sched_getaffinity(0))
    write(root, "cpu.max", "50000 100000")
    assert limits.cores(root) == 0.5


def test_this_machine_has_some_cores() -> None:
    assert 0 < limits.cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("asked", "available", "workers", "threads"),
    [(0, 0.5, 1, 1), (0, 1.9, 1, 1), (0, 4.0, 4, 1), (1, 4.0, 1, 4), (3, 4.0, 3, 1), (2, 8.0, 2, 4), (8, 2.0, 8, 1)],
)
def test_cores_are_shared_by_workers_and_their_threads(
    asked: int, available: float, workers: int, threads: int
) -> None:
    assert limits.worker_counts(asked, available) == (workers, workers)
    assert limits.thread_count(workers, available) == threads


def test_libraries_read_the_thread_count_from_their_variables() -> None:
    variables = limits.thread_variables(3)
    assert variables["OMP_NUM_THREADS"] == variables["OPENBLAS_NUM_THREADS"] == variables["MKL_NUM_THREADS"] == "3"
