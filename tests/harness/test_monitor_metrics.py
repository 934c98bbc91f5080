"""The figures for Prometheus, and the alert rules that come with them."""

import asyncio
import subprocess
import sys
from itertools import count
from pathlib import Path
from urllib.request import urlopen

import pytest

import muxleak.monitor
from muxleak import Monitor
from muxleak.monitor import metrics

NEEDS = "needs: pip install 'muxleak[prometheus]'"
RULES = Path(muxleak.monitor.__file__).with_name("alerts.yml")
FAMILIES = {
    *("muxleak_climbing", "muxleak_growth_per_minute", "muxleak_growth_per_minute_lower"),
    *("muxleak_tasks", "muxleak_tasks_created", "muxleak_tasks_destroyed"),
    *("muxleak_tasks_finished", "muxleak_tasks_left"),
    *("muxleak_connections_accepted", "muxleak_connections_ended"),
    *("muxleak_connections_stuck", "muxleak_connections_climbing", "muxleak_connections_unseen"),
    *("muxleak_descriptors", "muxleak_descriptors_climbing", "muxleak_messages"),
    *("muxleak_sites", "muxleak_timers", "muxleak_transports"),
}


def fetch(url: str) -> str:
    """Read a page."""
    with urlopen(url) as page:  # noqa: S310 - a server of our own
        return str(page.read().decode())


async def leak(monitor: Monitor) -> list[asyncio.Task[object]]:
    """Two more tasks, made on one line, at each of nine looks, and one that ends."""
    left: list[asyncio.Task[object]] = []
    for _ in range(9):
        left += [asyncio.create_task(asyncio.Event().wait()) for _ in range(2)]
        await asyncio.create_task(asyncio.sleep(0))
        monitor.sample()
    return left


def test_metrics_tell_what_the_monitor_knows() -> None:
    """Each figure under its name, by site; the scrape is what the official parser reads."""
    parser = pytest.importorskip("prometheus_client.parser", reason=NEEDS)

    async def main() -> str:
        minutes = count(0.0, 60.0)  # one passes with every look
        with Monitor(interval=None, window=9, clock=minutes.__next__) as monitor:
            left = await leak(monitor)
            asyncio.get_running_loop().call_exception_handler({"message": "Unclosed thing at 1"})
            (host, port), status = await monitor.listen(), monitor.status()
            assert (status.tasks, status.created, status.messages) == (18, 27, 1)
            url = f"http://{host}:{port}/metrics"
            text = await asyncio.to_thread(fetch, url)
            for task in left:
                task.cancel()
            return text

    families = {
        each.name: each for each in parser.text_string_to_metric_families(asyncio.run(main()))
    }
    found = {
        name: {sample.labels["site"]: sample.value for sample in families[name].samples}
        for name in FAMILIES
        if "site" in families[name].samples[0].labels
    }

    assert set(families) == FAMILIES
    (site,) = (site for site, value in found["muxleak_climbing"].items() if value)
    assert "test_monitor_metrics.py" in site
    assert found["muxleak_tasks"][site] == found["muxleak_tasks_left"][site] == 18
    assert found["muxleak_growth_per_minute"][site] == pytest.approx(2)
    assert sum(found["muxleak_tasks_finished"].values()) == 9
    assert families["muxleak_sites"].samples[0].value == 2
    (message,) = families["muxleak_messages"].samples[:1]
    assert message.labels == {"kind": "message", "text": "Unclosed thing", "site": "unknown"}
    assert message.value == 1


def test_metrics_have_a_bounded_number_of_series() -> None:
    """One label with at most `max_sites` values and one for all others."""
    client = pytest.importorskip("prometheus_client", reason=NEEDS)

    async def main() -> None:
        with Monitor(interval=None, max_sites=1) as monitor:
            tasks = [
                asyncio.create_task(asyncio.sleep(0)),
                asyncio.create_task(asyncio.sleep(0)),
                asyncio.create_task(asyncio.sleep(0)),
            ]
            registry = client.CollectorRegistry()
            registry.register(metrics.Collector(monitor))
            text = client.generate_latest(registry).decode()
            await asyncio.gather(*tasks)
            series = [line for line in text.splitlines() if line.startswith("muxleak_tasks{")]
            assert [line.rpartition(" ")[2] for line in sorted(series, key=len)] == ["2.0", "1.0"]
            assert 'site="other sites"' in min(series, key=len)

    asyncio.run(main())


def test_metrics_without_the_client_say_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """In Python as an ImportError, over HTTP as 501."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)

    with pytest.raises(ImportError, match=r"pip install 'muxleak\[prometheus\]'"):
        metrics.Collector(Monitor())
    page = Monitor()._metrics()
    assert page.status == 501
    assert b"pip install 'muxleak[prometheus]'" in page.text


def test_metrics_are_imported_when_asked_for() -> None:
    """The monitor alone needs no more than the package does."""
    code = "import sys, muxleak.monitor; print('prometheus_client' in sys.modules)"
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert done.stdout == "False\n"


def test_alert_rules_are_about_metrics_that_are_exported() -> None:
    """A metric renamed here would silence the alert there."""
    words = RULES.read_text().replace("{", " ").split()
    named = {word.strip("`") for word in words if word.startswith(("muxleak_", "`muxleak_"))}

    assert named == {
        *("muxleak_climbing", "muxleak_tasks_left"),
        *("muxleak_connections_climbing", "muxleak_connections_stuck"),
        *("muxleak_descriptors_climbing", "muxleak_descriptors"),
    }
    assert named <= FAMILIES
