"""Trust domains: their quotas, what is granted across them, and the commands for both."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import agentmem
from agentmem.cli import main
from agentmem.errors import (
    DomainQuotaExceeded,
    InvalidArgument,
    LimitReached,
    NotFound,
    PermissionDenied,
    Unsupported,
)

TOKEN = "a token that is long"

Enter = Callable[..., agentmem.Store]


@pytest.fixture
def enter(daemon_socket: Path) -> Iterator[Enter]:
    """What enters a domain of a daemon, or the user's own without a name."""
    entered: list[agentmem.Store] = []

    def enter(name: str | None = None, **options: Any) -> agentmem.Store:
        token = None if name is None else TOKEN
        store = agentmem.connect(daemon_socket, domain=name, token=token, start=False, **options)
        entered.append(store)
        return store

    yield enter
    for store in entered:
        store.close()


@pytest.fixture
def inside(daemon_socket: Path, tmp_path: Path) -> Callable[..., Result]:
    """What runs a command in a domain of the daemon, or in the user's own."""
    (tmp_path / "token").write_text(TOKEN + "\n")

    def run(name: str | None, *arguments: object) -> Result:
        domain = () if name is None else ("--domain", name, "--token-file", tmp_path / "token")
        words = [str(word) for word in (*arguments, "--socket", daemon_socket, *domain)]
        return CliRunner().invoke(main, words, prog_name="agentmem")

    return run


def record(result: Result) -> Any:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_agents_of_a_domain_share_its_quota(enter: Enter) -> None:
    first, second = enter("tenant", quota_bytes="10K"), enter("tenant")
    one, two = first.agent("one"), second.agent("two")
    held = [one.put(number.to_bytes(4) * 256) for number in range(9)]
    two.put(b"two " * 256)
    for agent in (one, two):
        with pytest.raises(DomainQuotaExceeded, match=r"'?\"tenant\".*10240 of 10240 bytes"):
            agent.put(b"x")
    assert issubclass(DomainQuotaExceeded, MemoryError)
    one.release(held.pop())
    two.put(b"new " * 256)
    assert second.domain() == {
        "name": "tenant",
        "logical_bytes": 10240,
        "quota_bytes": 10240,
        "agents": 2,
        "agents_max": None,
    }
    second.limit_domain(quota_bytes=None, agents_max=2)
    one.put(b"y" * 100_000)
    with pytest.raises(LimitReached, match='2 agents in domain "tenant"'):
        first.agent("three")
    assert enter().domain()["name"] == ""


def test_the_command_line_limits_a_domain(enter: Enter, inside: Callable[..., Result]) -> None:
    tenant = enter("tenant")
    limited = record(inside("tenant", "limit", "--quota", "1M", "--agents", "3", "--json"))
    assert (limited["quota_bytes"], limited["agents_max"]) == (1 << 20, 3)
    assert tenant.domain()["quota_bytes"] == 1 << 20
    # What is not said stays.
    record(inside("tenant", "limit", "--quota", "none", "--json"))
    assert (tenant.domain()["quota_bytes"], tenant.domain()["agents_max"]) == (None, 3)
    said = inside("tenant", "limit", "--quota", "2M").stdout
    assert said == "tenant: at most 2.0 MiB of content, and 3 agents\n"
    for wrong in ((), ("--memory-max", "1G"), ("agent", "--agents", "3"), ("--agents", "-1")):
        assert inside("tenant", "limit", *wrong).exit_code == 2, wrong


def test_a_quota_beyond_the_configuration_makes_no_session(
    enter: Enter, daemon_socket: Path
) -> None:
    enter("tenant", quota_bytes=1000)
    with pytest.raises(InvalidArgument):
        enter("tenant", quota_bytes="lots")
    with agentmem.open(memory_max="64M") as alone, pytest.raises(Unsupported):
        alone.limit_domain(quota_bytes=1, agents_max=None)


def test_what_is_granted_is_copied_and_what_is_not_is_not(
    enter: Enter, inside: Callable[..., Result], daemon_socket: Path
) -> None:
    own, tenant = enter(), enter("tenant")
    giver, taker = own.agent("giver"), tenant.agent("taker")
    smu = giver.put(b"a prompt " * 1000, kind="system_prompt")
    grant = giver.grant(smu, "tenant", expires_s=60, uses=2)
    copy = taker.redeem(grant)
    assert (copy.read(), copy.kind) == (smu.read(), "system_prompt")
    assert copy.id != smu.id
    (listed,) = own.grants()
    assert (listed["to_domain"], listed["uses"], listed["content"]) == ("tenant", 1, smu.id)
    (shown,) = (json.loads(line) for line in inside(None, "grants", "--json").stdout.splitlines())
    assert shown == listed
    assert "giver" in inside(None, "grants").stdout
    assert tenant.grants() == []
    assert inside("tenant", "revoke", listed["id"]).exit_code == 1
    assert inside(None, "revoke", listed["id"]).stdout == "revoked\n"
    with pytest.raises(NotFound, match="used up, over, revoked"):
        taker.redeem(grant)
    back = taker.grant(copy, None)
    assert giver.redeem(back).read() == smu.read()
    tenant.revoke(taker.grant(copy, None))
    log = Path(f"{daemon_socket}.grants").read_text()
    events = [json.loads(line)["event"] for line in log.splitlines()]
    assert events == ["granted", "redeemed", "revoked", "granted", "redeemed", "granted", "revoked"]
    assert grant not in log
    for wrong in ({"expires_s": -1}, {"uses": 0}):
        with pytest.raises(InvalidArgument):
            giver.grant(smu, "tenant", **wrong)
    with pytest.raises(InvalidArgument):
        giver.grant(smu, None)


def test_figures_are_those_of_the_own_domain(enter: Enter, inside: Callable[..., Result]) -> None:
    own, tenant = enter(), enter("tenant")
    own.agent("mine").put(b"mine" * 1000)
    tenant.agent("theirs").put(b"theirs" * 100)
    for command in ("stats", "df"):
        kinds = [record(inside(name, command, "--json"))["by_kind"] for name in (None, "tenant")]
        assert [each["tool_result"]["logical_bytes"] for each in kinds] == [4000, 600]
    assert record(inside("tenant", "stats", "--json"))["agent_names"] == ["theirs"]
    for name, other in ((None, "theirs"), ("tenant", "mine")):
        assert inside(name, "stats", other).exit_code == 1
        with pytest.raises(NotFound):
            (own if name is None else tenant).agent_stats(other)


def test_a_wrong_token_is_told_from_nothing_else(daemon_socket: Path, enter: Enter) -> None:
    enter("tenant")
    with pytest.raises(PermissionDenied, match="another token or does not exist"):
        agentmem.connect(daemon_socket, domain="tenant", token="another one as long", start=False)
