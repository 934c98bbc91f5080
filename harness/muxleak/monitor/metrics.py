"""Exports the monitor's figures to Prometheus by its official client, which is an extra."""

# The number of time series is bounded, as Prometheus needs it: tasks have one label, the creation
# site, which has at most `max_sites` values and one for all others. Messages have at most as many
# series, and one for all others of each kind. Figures are taken when they are
# scraped. The client is imported at first use, since it is not a dependency; `alerts.yml` has the
# alert rule for these names.

from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

from muxleak.monitor.endpoint import Page

if TYPE_CHECKING:
    from muxleak.monitor.service import Monitor

HOW = "pip install 'muxleak[prometheus]'"


def client() -> Any:
    """Return the module `prometheus_client`.

    Raises:
        ImportError: it is not installed; the message says how to install it.
    """
    try:
        return import_module("prometheus_client")
    except ImportError:
        raise ImportError(f"metrics need prometheus_client, which is an extra: {HOW}") from None


class Collector:
    """Collects the figures of a monitor for a registry of `prometheus_client`.

    The label of tasks is the site, with at most `max_sites` + 1 values. Messages have the labels
    kind, text and site, and at most `max_sites` + 3 series.

    Args:
        monitor: may be closed later; the figures then stay as they are.

    Raises:
        ImportError: `prometheus_client` is not installed.
    """

    def __init__(self, monitor: "Monitor") -> None:
        client()
        self._core = import_module("prometheus_client.core")
        self._monitor = monitor

    def describe(self) -> Iterable[Any]:
        """Return no metrics, so that registering a collector collects nothing."""
        return ()

    def collect(self) -> Iterator[Any]:
        """Yield the metric families."""
        gauge, counter = self._core.GaugeMetricFamily, self._core.CounterMetricFamily
        sites, status = self._monitor.sites(), self._monitor.status()
        climb = self._monitor.connections_climb
        by_site = (
            (gauge, "tasks", "Live tasks by the line that makes them.", "live"),
            (gauge, "tasks_left", "Live tasks that belong to no open connection.", "left"),
            (counter, "tasks_created", "Tasks made.", "created"),
            (counter, "tasks_finished", "Tasks ended.", "finished"),
            (counter, "tasks_destroyed", "Tasks destroyed while pending.", "destroyed"),
            (gauge, "growth_per_minute", "Theil-Sen slope of muxleak_tasks_left.", "slope"),
            (gauge, "growth_per_minute_lower", "99 % lower bound of the slope.", "lower"),
            (gauge, "climbing", "1 while the alarm of the line is on.", "climbing"),
        )
        for family, name, text, figure in by_site:
            metric = family(f"muxleak_{name}", text, labels=["site"])
            for site in sites:
                metric.add_metric([site.site], float(getattr(site, figure)))
            yield metric
        messages = counter(
            "muxleak_messages",
            "Lost exceptions, messages to the exception handler, and ResourceWarnings.",
            labels=["kind", "text", "site"],
        )
        for each in self._monitor.messages():
            messages.add_metric([each.kind, each.text, each.site], float(each.number))
        yield messages
        totals = (
            (counter, "connections_accepted", "Connections accepted.", status.accepted),
            (counter, "connections_ended", "Accepted connections that have ended.", status.ended),
            (
                *(gauge, "connections_stuck"),
                *("Accepted connections that serve nobody, as of two samples.", status.stuck),
            ),
            (
                *(gauge, "connections_climbing"),
                *("1 while the alarm of the stuck connections is on.", climb),
            ),
            (
                *(gauge, "connections_unseen"),
                *("1 while no server has shown a connection.", status.unseen),
            ),
            (
                *(gauge, "descriptors"),
                *("Open descriptors that belong to no transport.", status.descriptors),
            ),
            (
                *(gauge, "descriptors_climbing"),
                *("1 while the alarm of the descriptors is on.", self._monitor.descriptors_climb),
            ),
            (gauge, "transports", "Open transports, accepted and others.", status.transports),
            (gauge, "timers", "Timers that the service has set.", status.timers),
            (gauge, "sites", "Lines that make tasks and have a count of their own.", len(sites)),
        )
        for family, name, text, value in totals:
            yield family(f"muxleak_{name}", text, value=float(value))


def page(monitor: "Monitor") -> Page:
    """Return the figures in the text format of Prometheus.

    Raises:
        ImportError: `prometheus_client` is not installed.
    """
    module = client()
    registry = module.CollectorRegistry()
    registry.register(Collector(monitor))
    return Page(module.generate_latest(registry), module.CONTENT_TYPE_LATEST)
