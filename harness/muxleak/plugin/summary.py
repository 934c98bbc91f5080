"""What the whole run found: the header, the sum at the end, and the file of known leaks.

With pytest-xdist this is what the controlling process does; everything reaches it on the reports of
the tests, and at a worker's end.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

import pytest

from muxleak.plugin.options import notes

if TYPE_CHECKING:
    from muxleak.plugin.baseline import Baseline, Excess
    from muxleak.plugin.options import PluginSettings

_SHOWN = 20  # lines of each list
FIXTURE = ": fixture "  # in what stands for a fixture among the ids of tests
_VANISHED = "muxleak_vanished"


class Summary:
    """Sums up.

    Args:
        config: of the session.
        mode: of `options.MODES`.

    Attributes:
        settings: what is in force; None while nothing is.
        known: what the file of known leaks says; None without one.
    """

    def __init__(self, config: pytest.Config, mode: str) -> None:
        self.config, self.mode = config, mode
        self.settings: PluginSettings | None = None
        self.baseline: Baseline | None = None
        self._found: Baseline = {}
        self._sites: Counter[tuple[str, str]] = Counter()
        self._tests: dict[tuple[str, str], set[str]] = {}
        self._new: dict[str, None] = {}
        self._explicit: dict[str, None] = {}
        self._done: dict[str, None] = {}
        self._vanished: dict[str, None] = {}
        self._homeless: list[str] = []
        self._wrote = ""

    @property
    def _worker(self) -> bool:
        return hasattr(self.config, "workerinput")

    def set_up(self, settings: "PluginSettings") -> None:
        """Read the file of known leaks.

        Raises:
            pytest.UsageError: it is not there, or no such file.
        """
        self.settings, path = settings, settings.baseline
        if path is None:
            return
        from muxleak.plugin.baseline import read  # noqa: PLC0415 - only runs with such a file pay for it

        try:
            self.baseline = read(path)
        except FileNotFoundError:
            if not settings.update:
                raise pytest.UsageError(
                    f"no baseline at {path}: write it with --leaks-update"
                ) from None
            self.baseline = {}
        except (OSError, ValueError) as error:
            raise pytest.UsageError(f"baseline {path}: {error}") from error

    def collected(self, items: Iterable[pytest.Item]) -> None:
        """Note which known leaks are of tests that no longer are."""
        whole = not self.config.getoption("lf", default=False)
        if not self.baseline or not whole or any("::" in each for each in self.config.args):
            return
        ids = {item.nodeid for item in items}
        files = {each.partition("::")[0] for each in ids}
        self._vanished |= {
            blamed: None
            for blamed in self.baseline
            if FIXTURE not in blamed and blamed not in ids and blamed.partition("::")[0] in files
        }

    def pytest_report_header(self) -> list[str]:
        """Return the settings in force, and a line for each deprecated name."""
        # Not a warning: `filterwarnings = error` would make a failure of it.
        lines = [f"muxleak: {line}" for line in notes(self.config)]
        settings = self.settings
        if settings is None:
            return lines
        from muxleak.ledger.kinds import KINDS  # noqa: PLC0415 - only runs that check pay for it

        kinds = "all" if settings.kinds == KINDS else ",".join(sorted(settings.kinds))
        parts = [f"leaks={settings.mode}", f"kinds={kinds}", f"budget={settings.budget:g}s"]
        if settings.ignores:
            parts.append(f"ignored={len(settings.ignores)}")
        if self.baseline is not None:
            count = sum(sum(leaks.values()) for leaks in self.baseline.values())
            update = ", to be updated" if settings.update else ""
            parts.append(f"baseline={settings.baseline} ({count} leaks{update})")
        return [f"muxleak: {', '.join(parts)}", *lines]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take up what a report brings."""
        brought: dict[str, Any] | None = getattr(report, "muxleak", None)
        if brought is None:
            return
        self._done |= dict.fromkeys(brought["done"])
        found: dict[str, Counter[str]] = {}
        for each in brought["leaks"]:
            blamed, site = each["blamed"], (each["kind"], each["site"])
            self._sites[site] += each["count"]
            self._tests.setdefault(site, set()).add(blamed)
            if each["explicit"]:
                # It fails its test whatever the file says, and so is none of the file's.
                self._explicit[blamed] = None
                continue
            found.setdefault(blamed, Counter())[each["leak"]] += each["count"]
            if each["new"]:
                self._new[blamed] = None
            if "text" in each:
                self._homeless.append(each["text"])
        for blamed, counts in found.items():
            # The same fixture, in several workers.
            before = Counter(self._found.get(blamed, {}))
            self._found[blamed] = dict(before | counts)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take up what a worker of pytest-xdist brings."""
        self._vanished |= dict.fromkeys(getattr(node, "workeroutput", {}).get(_VANISHED, ()))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Hand on, in a worker; else write the file, or fail for what it has too much."""
        if self._worker:
            session.config.workeroutput[_VANISHED] = list(self._vanished)  # type: ignore[attr-defined]
            return
        settings = self.settings
        if settings is None or settings.baseline is None or self.baseline is None:
            failed = bool(self._homeless)
        elif settings.update:
            failed = bool(self._homeless)
            self._write()
        else:
            failed = bool(self._homeless or self._gone() or self._vanished)
        if failed and self.mode == "strict" and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Tell who leaked, by site, and what of the known leaks is gone."""
        lines = [*self._leaked(), *self._homeless, *self._lost()]
        if self._wrote:
            lines.append(self._wrote)
        if lines and not self._worker:
            terminalreporter.section("leaks")
            for line in lines:
                terminalreporter.write_line(line)

    def _leaked(self) -> list[str]:
        leaky = self._found.keys() | self._explicit
        if not leaky:
            return []
        from muxleak.ledger.kinds import NOUNS  # noqa: PLC0415 - only runs that find something pay for it

        lines = [f"{_who(leaky)} left something behind"]
        if self.baseline is not None:
            explicit, new = len(self._explicit), len(self._new.keys() - self._explicit)
            lines[0] += f": {new} new, {len(leaky) - new - explicit} in the baseline"
            lines[0] += f", {explicit} failed by an explicit no_leaks" if explicit else ""
        # The most common first; else in the order of their first appearance.
        for (kind, site), count in self._sites.most_common(_SHOWN):
            who = _who(self._tests[kind, site])
            lines.append(f"  {count} x {NOUNS[kind][0]} made at {site} ({who})")
        if len(self._sites) > _SHOWN:
            lines.append(f"  and {len(self._sites) - _SHOWN} more places")
        return lines

    def _lost(self) -> list[str]:
        settings = self.settings
        if settings is None or settings.baseline is None or settings.update:
            return []
        lines = [
            f"  {each.owner}: {each.leak} (baseline {each.expected}, found {each.found})"
            for each in self._gone()
        ]
        lines += [f"  {blamed} (there is no such test)" for blamed in self._vanished]
        if not lines:
            return []
        more = [f"  and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
        head = (
            f"the baseline {settings.baseline} lists leaks that no longer occur: remove them, or "
            "write it again with --leaks-update"
        )
        return [head, *lines[:_SHOWN], *more]

    def _gone(self) -> "list[Excess]":
        from muxleak.plugin.baseline import excess  # noqa: PLC0415 - only runs with such a file pay for it

        return excess(self.baseline or {}, self._found, self._done)

    def _write(self) -> None:
        from muxleak.plugin.baseline import updated, write  # noqa: PLC0415 - as above

        settings = self.settings
        if settings is None or settings.baseline is None:
            return
        new = updated(self.baseline or {}, self._found, self._done, self._vanished)
        write(settings.baseline, new)
        count = sum(sum(leaks.values()) for leaks in new.values())
        self._wrote = f"wrote {settings.baseline}: {count} leaks of {_who(new)}"
        if self._explicit:
            who = _who(self._explicit)
            self._wrote += f"; what failed {who} by an explicit no_leaks is not in it"


def _who(blamed: Collection[str]) -> str:
    fixtures = sum(FIXTURE in each for each in blamed)
    tests = len(blamed) - fixtures
    parts = [_several(tests, "test")] if tests else []
    parts += [_several(fixtures, "fixture")] if fixtures else []
    return " and ".join(parts)


def _several(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' if count != 1 else ''}"
