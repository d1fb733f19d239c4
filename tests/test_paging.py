"""What doctor says of a machine on which agents are to be paged out."""

import errno
from pathlib import Path

import pytest

from agentmem import paging, supervisor
from agentmem.finding import Finding
from agentmem.machine import examine

FOLDER = Path("/sys/fs/cgroup/user.slice")


@pytest.mark.parametrize(
    ("finding", "status", "way_out"),
    [
        (paging.userfaultfd(True, errno.EPERM), "ok", ""),
        (paging.userfaultfd(False, None), "ok", ""),
        (paging.userfaultfd(False, errno.EPERM), "limited", "sudo agentmem setup"),
        (paging.userfaultfd(False, errno.ENOSYS), "missing", "CONFIG_USERFAULTFD"),
        (paging.pagemap_scan((6, 7)), "ok", ""),
        (paging.pagemap_scan((6, 6)), "limited", "upgrade"),
        (paging.tracing(None, False), "ok", ""),
        (paging.tracing("0", False), "ok", ""),
        (paging.tracing("1", False), "limited", "adopt"),
        (paging.tracing("1", True), "ok", ""),
        (paging.tracing("2", False), "limited", "ptrace_scope=1"),
        (paging.tracing("2", True), "ok", ""),
        (paging.tracing("3", True), "missing", "restart"),
        (paging.freezer(True, FOLDER, True), "ok", ""),
        (paging.freezer(True, FOLDER, False), "limited", "sudo agentmem setup"),
        (paging.freezer(False, FOLDER, True), "limited", "unified_cgroup_hierarchy"),
        (paging.swap([], 0), "limited", "zram"),
        (paging.swap(["/dev/zram0 partition 1 0 5"], 2**30), "ok", ""),
    ],
)
def test_each_lack_has_a_way_out(finding: Finding, status: str, way_out: str) -> None:
    assert finding.status == status
    assert bool(finding.way_out) == bool(way_out)
    assert way_out in finding.way_out


def test_a_missing_supervisor_is_a_lack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "PROGRAM", tmp_path / "none")
    (found,) = [each for each in examine() if each.name == "supervisor"]
    assert (found.status, found.required) == ("missing", False)
    assert "make setup" in found.way_out
