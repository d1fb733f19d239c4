"""What the daemon tells Prometheus, read by Prometheus's own strict parsers; and its one budget."""

import contextlib
import http.client
import json
import os
import socket as sockets
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import daemon
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as classic

import agentmem
from agentmem.daemon import PROGRAM, LocalConnection, figures
from agentmem.fleet import agents

CLASSIC, OPEN = "text/plain", "application/openmetrics-text"
SECRET = "a-name-that-somebody-chose"
COMMAND = [sys.executable, "-c", "from agentmem.cli import main; main(prog_name='agentmem')"]
HUNGRY = "import sys; held = bytearray(300 << 20); print('ready', flush=True); sys.stdin.read()"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(connection: http.client.HTTPConnection, accept: str = OPEN) -> Samples:
    connection.request("GET", "/metrics", headers={"Accept": accept})
    response = connection.getresponse()
    text = response.read().decode()
    assert response.status == 200
    content_type = response.getheader("Content-Type")
    assert content_type is not None
    assert content_type.startswith(accept)
    assert SECRET not in text
    families = list((open_metrics if accept == OPEN else classic)(text))
    assert len({family.name for family in families}) == len(families) > 20
    assert all(family.documentation for family in families)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def of(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


@pytest.mark.parametrize("accept", [CLASSIC, OPEN])
def test_both_forms_say_what_stats_says(daemon_socket: Path, accept: str) -> None:
    with agentmem.connect(daemon_socket, start=False) as mem:
        agent = mem.agent(SECRET)
        smu = agent.put(b"prompt " * 10_000, kind="system_prompt", name=SECRET)
        mem.agent("idle one").idle()
        agent.conversation(SECRET).append("a message")
        assert smu.id
        mem.reclaim()
        with smu.view():
            pass
        stats = mem.stats()
        samples = scrape(LocalConnection(daemon_socket, 30), accept)
        stored = of(samples, "agentmem_stored_bytes", tier="hot", kind="system_prompt")
        assert stored == len(smu)
        assert of(samples, "agentmem_stored_bytes", tier="warm", kind="system_prompt") > 0
        assert of(samples, "agentmem_logical_bytes", kind="system_prompt") == len(smu)
        for tier in ("hot", "warm", "cold"):
            by_kind = [
                value
                for (name, labels), value in samples.items()
                if name == "agentmem_stored_bytes" and ("tier", tier) in labels
            ]
            assert len(by_kind) == 4
            assert sum(by_kind) == stats["by_tier"][tier]["bytes"]
        assert of(samples, "agentmem_budget_bytes") == 64 << 20
        summed: dict[str, float] = {}
        for (name, _), value in samples.items():
            summed[name] = summed.get(name, 0) + value
        told = figures(daemon_socket)
        for name in ("agentmem_stored_bytes", "agentmem_fleet_budget_bytes", "agentmem_smus"):
            assert told[name] == summed[name]
        assert 0 < of(samples, "agentmem_resident_bytes") < 64 << 20
        assert of(samples, "agentmem_agents", type="api", state="active") == 1
        assert of(samples, "agentmem_agents", type="api", state="idle") == 1
        assert 0 < of(samples, "agentmem_machine_allows_bytes") <= 64 << 20
        assert of(samples, "agentmem_pressure_reclaims_total", reason="scarce") >= 0
        assert of(samples, "agentmem_pressure_reclaims_total", reason="stalled") >= 0
        assert of(samples, "agentmem_scored_processes") == 0, "none is less important than usual"
        assert of(samples, "agentmem_sessions") == of(samples, "agentmem_domains") == 1
        moves = {"from": "warm", "to": "hot"}
        assert of(samples, "agentmem_tier_moves_total", **moves) == 1
        assert of(samples, "agentmem_refaults_total", tier="warm") >= 1
        assert of(samples, "agentmem_rejected_total", reason="quota") == 0
        assert of(samples, "agentmem_view_duration_seconds_count") == 1
        assert of(samples, "agentmem_view_duration_seconds_bucket", le="+Inf") == 1
        assert of(samples, "agentmem_view_duration_seconds_sum") > 0
        assert of(samples, "process_cpu_seconds_total") > 0
        assert of(samples, "agentmem_daemon_pss_bytes") > 0
        mem.agent("sessions go on beside it").put(b"x")


def free_port() -> int:
    with sockets.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert isinstance(port, int)
    return port


def test_a_port_of_the_loopback_and_of_nothing_else(tmp_path: Path) -> None:
    port = free_port()
    with daemon(tmp_path / "agentmem.sock", f"metrics_port = {port}"):
        samples = scrape(http.client.HTTPConnection("127.0.0.1", port, timeout=30))
        assert of(samples, "agentmem_domains") == 1
        listening = f"0100007F:{port:04X} 00000000:0000 0A"
        tables = [Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6")]
        lines = [line for table in tables for line in table.splitlines() if f":{port:04X} " in line]
        assert [line for line in lines if " 0A " in line and listening not in line] == []
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/metrics", headers={"Host": "example.org"})
        assert connection.getresponse().status == 403
        command = [PROGRAM, f"--socket={tmp_path}/other.sock", f"--metrics-port={port}"]
        second = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert second.returncode == 1
        assert f"metrics_port {port}" in second.stderr


@pytest.mark.parametrize("port", ["0", "65536", "0.0.0.0:9464", "all"])
def test_what_is_no_port_is_refused(port: str) -> None:
    result = subprocess.run([PROGRAM, f"--metrics-port={port}"], capture_output=True, text=True)
    assert (result.returncode, "127.0.0.1" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        (b"GET /secrets HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /metrics HTTP/1.1\r\n" + b"x: y\r\n" * 10_000, b"431"),
        (b"GET \r\n\r\n", b"400"),
    ],
    ids=str,
)
def test_other_requests_are_refused_and_sessions_go_on(
    daemon_socket: Path, request_text: bytes, status: bytes
) -> None:
    with sockets.socket(sockets.AF_UNIX) as connection:
        connection.connect(str(daemon_socket))
        # It may be refused before all of it is sent.
        with contextlib.suppress(BrokenPipeError):
            connection.sendall(request_text)
        assert connection.recv(12) == b"HTTP/1.1 " + status
    with agentmem.connect(daemon_socket, start=False) as mem:
        assert mem.agents() == []


def until_state(wanted: str, timeout_s: float = 90.0) -> str:
    end = time.monotonic() + timeout_s
    state = ""
    while time.monotonic() < end:
        state = next((agent.state for agent in agents() if agent.name == "hungry"), "")
        if state == wanted:
            break
        time.sleep(0.1)
    return state


def test_one_budget_governs_a_daemon_and_a_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("AGENTMEM_RUNTIME_DIR", str(folder))
    command = [*COMMAND, "run", "--name", "hungry", "--idle-after", "1h", "--", sys.executable]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([*command, "-c", HUNGRY], **pipes) as process:  # type: ignore[call-overload]
        try:
            if process.stdout.readline() != b"ready\n":
                pytest.skip("this user may not page out: agentmem doctor says why")
            assert until_state("idle") == "idle"
            with daemon(folder / "agentmem.sock", 'memory_max = "256M"') as socket:
                # An hour is not over: it is the budget that wants its memory.
                assert until_state("paged_out") == "paged_out"
                (agent,) = agents()
                assert agent.private_bytes + agent.compressed_bytes < 64 << 20
                while True:
                    samples = scrape(LocalConnection(socket, 30))
                    if of(samples, "agentmem_engine_budget_bytes") > 128 << 20:
                        break
                    time.sleep(0.1)
                assert of(samples, "agentmem_agents", type="tree", state="paged_out") == 1
                assert of(samples, "agentmem_tree_bytes", what="frames") == agent.compressed_bytes
                assert of(samples, "agentmem_engine_budget_bytes") < 256 << 20
                monkeypatch.setenv("AGENTMEM_SOCKET", str(socket))
                told = subprocess.run(
                    [*COMMAND, "admit", "--need", "1G", "--json"], capture_output=True, check=False
                )
                room = json.loads(told.stdout)
                assert (told.returncode, room["is_room"]) == (1, False)
                assert 0 < room["fleet_left_bytes"] < 256 << 20
        finally:
            process.stdin.close()
            process.wait(timeout=60)
    assert os.listdir(folder / "agents") == [".lock"]
