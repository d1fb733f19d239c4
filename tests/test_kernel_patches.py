"""The numbers that system calls get in a kernel's tables are the next that are free."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from kernel.patches.apply import CALLS, before, with_calls

OWN_ABI = "512\tx32\trt_sigaction\t\tcompat_sys_rt_sigaction\n"


@pytest.mark.parametrize(
    "last", ["462\tcommon\tmseal\t\tsys_mseal", "462 \tcommon  mseal\tsys_mseal"]
)
def test_calls_follow_the_last_that_is_there(last: str) -> None:
    """However its columns are parted, and before the numbers of another ABI."""
    head = f"# a comment\n461\tcommon\tlsm_list_modules\tsys_lsm_list_modules\n{last}\n"
    table = with_calls(f"{head}\n#\n{OWN_ABI}", "common")
    rows = [f"{463 + n}\tcommon\t{call}\t\tsys_{call}\n" for n, call in enumerate(CALLS)]
    assert table == head + "".join(rows) + f"\n#\n{OWN_ABI}"


def test_a_table_without_a_last_newline() -> None:
    """As some versions have it."""
    table = with_calls("450\ti386\tset_mempolicy_home_node\tsys_set_mempolicy_home_node", "i386")
    assert table.splitlines()[1] == "451\ti386\tagentmem_alloc\t\tsys_agentmem_alloc"
    assert table.endswith("454\ti386\tagentmem_stats\t\tsys_agentmem_stats\n")


def test_another_version_is_refused() -> None:
    """A place that is not there once is no place."""
    assert before("b", "abc", "x") == "axbc"
    for content in ("ac", "abbc"):
        with pytest.raises(SystemExit, match="not there once"):
            before("b", content, "x")
