"""The alert rule that is shipped, with Prometheus itself: its tool, and its server under load.

With ``MUXLEAK_SILENT_SECONDS=600 pytest -m slow -s tests/harness/test_monitor_prometheus.py`` the
load lasts ten minutes, and the reference must be silent for as long.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen
from uuid import UUID

import pytest

import muxleak.monitor
from creation_sites import site
from muxleak_scenarios.cli.serve import USER
from muxleak_scenarios.real.programs import LOOPBACK, free_port
from muxleak_vless import Client, MuxSession
from muxleak_vless.address import Address
from processes import REQUIRE, Process, unavailable
from servers import Destination, echo

RULES = Path(muxleak.monitor.__file__).with_name("alerts.yml")
RULES_TEST = Path(__file__).with_name("alerts_test.yml")
INSTALL = "apt-get install -y --no-install-recommends prometheus"
WATCHER = site(MuxSession.run, "self._watch(")
FIRES_WITHIN = 120.0  # seconds of load
SILENT = float(os.environ.get("MUXLEAK_SILENT_SECONDS", "0"))  # seconds of load, at least
VISITS = 9  # at most so many in a second
STAY = 2.0  # seconds, at most, that one stays open


def program(name: str) -> str:
    """Where one of Debian's package is; skip the test without it, or fail it where required."""
    path = shutil.which(name)
    if path is None:
        unavailable("prometheus", f"needs: {INSTALL} (no {name} in PATH)")
    return path


def test_missing_prometheus_fails_where_it_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its tests are skipped; both say what to install."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv(REQUIRE, raising=False)
    with pytest.raises(pytest.skip.Exception, match=INSTALL):
        program("prometheus")
    monkeypatch.setenv(REQUIRE, "interop,prometheus")
    with pytest.raises(pytest.fail.Exception, match=INSTALL):
        program("prometheus")


@pytest.mark.slow
def test_alert_rules_fire_for_the_site_that_climbs(tmp_path: Path) -> None:
    """Checked and tested by Prometheus' own tool; a rule that never fires fails."""
    tool = program("promtool")

    def promtool(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 - the tool named above
            [tool, *words], cwd=tmp_path, capture_output=True, text=True, check=False
        )

    rules, tests = tmp_path / RULES.name, tmp_path / RULES_TEST.name
    rules.write_text(RULES.read_text())
    tests.write_text(RULES_TEST.read_text())
    check, test = promtool("check", "rules", rules.name), promtool("test", "rules", tests.name)
    rules.write_text(RULES.read_text().replace("muxleak_climbing > 0", "muxleak_climbing > 1"))
    planted = promtool("test", "rules", tests.name)

    assert (check.returncode, check.stderr) == (0, "")
    assert (test.returncode, test.stderr) == (0, "")
    assert planted.returncode == 1


class Prometheus:
    """A server that scrapes every second, and evaluates the rule that is shipped as often."""

    def __init__(self, folder: Path, targets: dict[str, int]) -> None:
        folder.mkdir()
        self._port = free_port()
        # JSON is YAML.
        (folder / "prometheus.yml").write_text(
            json.dumps(
                {
                    "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                    "rule_files": [str(RULES)],
                    "scrape_configs": [
                        {
                            "job_name": "muxleak",
                            "static_configs": [
                                {"targets": [f"{LOOPBACK}:{port}"], "labels": {"version": version}}
                                for version, port in targets.items()
                            ],
                        }
                    ],
                }
            )
        )
        self.process = Process(
            "Prometheus",
            [
                program("prometheus"),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={LOOPBACK}:{self._port}",
            ],
            folder,
        )

    def ready(self) -> bool:
        """Wait until it accepts; False if it has ended instead."""
        return self.process.ready(self._port)

    def alerts(self) -> list[dict[str, Any]]:
        """What is pending or firing now."""
        found: list[dict[str, Any]] = self._get("alerts")["alerts"]
        return found

    def query(self, expression: str) -> dict[str, float]:
        """The values of an expression by version; of one that has several series, the last."""
        result = self._get("query?" + urlencode({"query": expression}))["result"]
        return {each["metric"]["version"]: float(each["value"][1]) for each in result}

    def _get(self, path: str) -> dict[str, Any]:
        with urlopen(f"http://{LOOPBACK}:{self._port}/api/v1/{path}", timeout=10) as page:
            data: dict[str, Any] = json.load(page)["data"]
            return data


def serving(version: str, port: int, debug: int, folder: Path) -> Process:
    """Start ``muxleak serve`` with its debug endpoint."""
    folder.mkdir()
    words = ["--listen", f"{LOOPBACK}:{port}", "--debug", f"{LOOPBACK}:{debug}"]
    command = [sys.executable, "-m", "muxleak", "serve", "--version", version, *words]
    return Process(f"serve {version}", command, folder)


async def visit(server: tuple[str, int], destination: Address, seconds: float) -> None:
    """Open a mux connection and a stream, have something echoed, stay a while, close."""
    async with await Client.connect(server, UUID(USER)) as client:
        stream = await client.open(destination, b"hello")
        assert await stream.read() == b"hello"
        await asyncio.sleep(seconds)


async def load(ports: list[int], destination: Address) -> None:
    """Visit all servers alike, some times a second, until cancelled."""
    random = Random(2421)
    async with asyncio.TaskGroup() as visits:
        while True:
            for _ in range(random.randrange(VISITS + 1)):
                seconds = STAY * random.random()
                for port in ports:
                    visits.create_task(visit((LOOPBACK, port), destination, seconds))
            await asyncio.sleep(1)


async def under_load(
    ports: list[int], watch: Callable[[], bool], at_least: float, at_most: float
) -> float:
    """Put servers under load until `watch`, asked every half second, has said so, and for so long.

    Returns:
        The seconds of load after which it said so.

    Raises:
        AssertionError: it did not within `at_most` seconds.
    """
    destination = Destination(echo)
    address = Address.of(*await destination.listen())
    began, said = time.monotonic(), 0.0
    async with asyncio.TaskGroup() as group:
        loading = group.create_task(load(ports, address))
        while time.monotonic() - began < (at_least if said else at_most):
            await asyncio.sleep(0.5)
            if not said and await asyncio.to_thread(watch):
                said = time.monotonic() - began
        loading.cancel()
    await destination.close()
    assert said, f"nothing was seen within {at_most:g} s"
    return said


@pytest.mark.slow
@pytest.mark.timeout(FIRES_WITHIN + SILENT + 60)
def test_prometheus_fires_for_the_bug_and_is_silent_about_the_fix(tmp_path: Path) -> None:
    """V1 and the reference under one load, scraped by one server: only one of them climbs."""
    program("prometheus")
    pytest.importorskip("prometheus_client", reason="needs: pip install 'muxleak[prometheus]'")
    ports = {version: (free_port(), free_port()) for version in ("V1", "REF")}
    with ExitStack() as stack:
        for version, (port, debug) in ports.items():
            server = stack.enter_context(serving(version, port, debug, tmp_path / version))
            assert server.ready(debug), server.log
        scraper = Prometheus(
            tmp_path / "prometheus", {version: debug for version, (_, debug) in ports.items()}
        )
        stack.enter_context(scraper.process)
        assert scraper.ready(), scraper.process.log

        def fires() -> bool:
            return any(each["state"] == "firing" for each in scraper.alerts())

        servers = [port for port, _ in ports.values()]
        seconds = asyncio.run(under_load(servers, fires, SILENT, FIRES_WITHIN))
        (alert,) = scraper.alerts()
        # Every evaluation that found an alert pending or firing has left a sample of this.
        alerted = scraper.query("sum by (version) (count_over_time(ALERTS[1h]))")
        scraped = scraper.query("avg_over_time(up[1h])")
        ended = scraper.query("muxleak_connections_ended_total")
        left = scraper.query("sum by (version) (muxleak_tasks_left)")

    print(f"\nV1 fired after {seconds:.0f} s of load; ended: {ended}; left: {left}")  # noqa: T201 - the figures
    assert alert["labels"]["alertname"] == "TasksClimb"
    assert (alert["labels"]["version"], alert["labels"]["site"]) == ("V1", WATCHER)
    assert f"without an open connection on {alert['labels']['instance']}" in " ".join(
        alert["annotations"]["description"].split()
    )
    assert set(alerted) == {"V1"}
    assert min(scraped["V1"], scraped["REF"]) > 0.9
    assert ended["REF"] == pytest.approx(ended["V1"], rel=0.1)
    assert left["REF"] < 0.1 * left["V1"]
