"""Sums up a run: the header, the list of leaks at the end, and the baseline.

With pytest-xdist the controller does this. The workers send their leaks on the reports of the
tests, and the tests that no longer exist when they end.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from muxleak.plugin.options import MARKS, notes

if TYPE_CHECKING:
    from muxleak.plugin.baseline import Baseline, Excess
    from muxleak.plugin.options import PluginSettings

_SHOWN = 20  # lines of each list
FIXTURE = ": fixture "  # tells the name of a fixture from the id of a test
# Keys in the output of a worker.
_REMOVED, _FOREIGN, _HIDDEN = "muxleak_removed", "muxleak_foreign", "muxleak_hidden"


class Summary:
    """The hooks that print the header and the summary and keep the baseline.

    Args:
        config: of the session.
        mode: of `options.MODES`.

    Attributes:
        settings: those of the run; None with `leaks = off`.
        baseline: the contents of the baseline; None without one.
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
        self._complete: dict[str, None] = {}
        self._removed: dict[str, None] = {}
        self._foreign: dict[str, None] = {}
        self._hidden: dict[str, dict[str, bool]] = {}
        self._unreported: list[str] = []
        self._refused: list[str] = []
        self._failures: list[str] = []
        self._wrote = ""

    @property
    def _worker(self) -> bool:
        return hasattr(self.config, "workerinput")

    def set_up(self, settings: "PluginSettings") -> None:
        """Take the settings and read the baseline.

        Raises:
            pytest.UsageError: the baseline is missing or not valid.
        """
        self.settings, path = settings, settings.baseline
        if path is None:
            return
        from muxleak.plugin.baseline import read  # noqa: PLC0415 - only runs with a baseline pay for it

        try:
            self.baseline = read(path)
        except FileNotFoundError:
            if not settings.update:
                raise pytest.UsageError(
                    f"no baseline at {path}: write it with --leaks-update"
                ) from None
            self.baseline = {}
        except (OSError, ValueError) as error:
            raise pytest.UsageError(
                f"baseline {path}: {error}; mend it, or remove it and run with --leaks-update"
            ) from error

    def collected(self, items: Iterable[pytest.Item]) -> None:
        """Note the tests in the baseline that no longer exist.

        A missing test counts only if the whole of its file was collected.
        """
        whole = not self.config.getoption("lf", default=False)
        if not self.baseline or not whole or any("::" in each for each in self.config.args):
            return
        ids = {item.nodeid for item in items}
        files = {each.partition("::")[0] for each in ids}
        self._removed |= {
            owner: None
            for owner in self.baseline
            if FIXTURE not in owner and owner not in ids and owner.partition("::")[0] in files
        }

    def without_foreign(self, marked: Iterable[pytest.Item]) -> bool:
        """Note the markers that have the form of another tool's; return True if others are left.

        Args:
            marked: the tests with a marker of our names.
        """
        from muxleak.plugin import foreign_marks  # noqa: PLC0415 - only marked tests pay for it

        owned, ours = foreign_marks.has_owner(self.config), False
        for item in marked:
            for mark in item.iter_markers():
                if mark.name not in MARKS:
                    continue
                if not foreign_marks.is_foreign(mark, self.config):
                    ours = True
                elif not owned:
                    self._foreign[foreign_marks.shown(item, mark)] = None
        return ours

    def hidden(self, tests: Mapping[str, Iterable[tuple[str, bool]]]) -> None:
        """Note tests that cannot be checked.

        Args:
            tests: by a clause that names their runner: their ids, and True if they fail the run.
        """
        for runner, found in tests.items():
            self._hidden.setdefault(runner, {}).update(found)

    def pytest_report_header(self) -> list[str]:
        """Return the settings in force, and a line for each deprecated name."""
        # Not a warning: `filterwarnings = error` would make a failure of it.
        lines = [f"muxleak: {line}" for line in notes(self.config)]
        settings = self.settings
        if settings is None:
            return lines
        from muxleak.ledger.kinds import DEFAULT_KINDS  # noqa: PLC0415 - only runs that check pay for it

        kinds = "all" if settings.kinds == DEFAULT_KINDS else ",".join(sorted(settings.kinds))
        parts = [f"leaks={settings.mode}", f"kinds={kinds}", f"budget={settings.budget:g}s"]
        if settings.ignores:
            parts.append(f"ignored={len(settings.ignores)}")
        if self.baseline is not None:
            count = sum(sum(leaks.values()) for leaks in self.baseline.values())
            update = ", to be updated" if settings.update else ""
            parts.append(f"baseline={settings.baseline} ({_several(count, 'leak')}{update})")
        return [f"muxleak: {', '.join(parts)}", *lines]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add the leaks that a report carries."""
        brought: dict[str, Any] | None = getattr(report, "muxleak", None)
        if brought is None:
            return
        self._complete |= dict.fromkeys(brought["complete"])
        self._refused += brought["refused"]
        self._failures += brought["failures"]
        found: dict[str, Counter[str]] = {}
        for each in brought["leaks"]:
            owner, site = each["owner"], (each["kind"], each["site"])
            self._sites[site] += each["count"]
            self._tests.setdefault(site, set()).add(owner)
            if each["explicit"]:
                # It fails its test whatever the baseline lists, so the baseline leaves it out.
                self._explicit[owner] = None
                continue
            found.setdefault(owner, Counter())[each["leak"]] += each["count"]
            if each["new"]:
                self._new[owner] = None
            if "text" in each:
                self._unreported.append(each["text"])
        for owner, counts in found.items():
            # A fixture runs in each worker: the most that one of them found, not the sum.
            before = Counter(self._found.get(owner, {}))
            self._found[owner] = dict(before | counts)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Add the removed tests and the markers that a worker of pytest-xdist noted."""
        output = getattr(node, "workeroutput", {})
        self._removed |= dict.fromkeys(output.get(_REMOVED, ()))
        self._foreign |= dict.fromkeys(output.get(_FOREIGN, ()))
        self.hidden(output.get(_HIDDEN, {}))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Update the baseline, or fail the run for entries that no longer occur."""
        # A worker leaves both to the controller.
        if self._worker:
            output = session.config.workeroutput  # type: ignore[attr-defined]
            output[_REMOVED], output[_FOREIGN] = list(self._removed), list(self._foreign)
            output[_HIDDEN] = {name: list(tests.items()) for name, tests in self._hidden.items()}
            return
        settings = self.settings
        if settings is None or settings.baseline is None or self.baseline is None:
            failed = bool(self._unreported)
        elif settings.update:
            failed = bool(self._unreported)
            try:
                self._write(settings.baseline)
            except (OSError, ValueError) as error:
                # Neither the code of a clean run nor that of a leak: the baseline lacks this run.
                self._wrote = f"could not write {settings.baseline}: {error}; it stays as it was"
                session.exitstatus = pytest.ExitCode.USAGE_ERROR
        else:
            failed = bool(self._unreported or self._excess() or self._removed)
        failed = failed and self.mode == "strict"
        failed = failed or any(True in tests.values() for tests in self._hidden.values())
        if failed and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """List the leaks by creation site, and the entries of the baseline that no longer occur."""
        lines = [*self._leaked(), *self._unwarned(), *self._unreported, *self._surplus()]
        lines += [_hidden_line(name, list(tests)) for name, tests in self._hidden.items()]
        lines += self._failures[:_SHOWN]
        if self._wrote:
            lines.append(self._wrote)
        if self._foreign:
            first, tests = next(iter(self._foreign)), _several(len(self._foreign), "marker")
            lines.append(
                f"{tests} no_leaks with arguments of another tool: left alone; muxleak's marker "
                f"takes kinds, budget, ignore, repeat by keyword (first: {first})"
            )
        if lines and not self._worker:
            terminalreporter.section("leaks")
            for line in lines:
                terminalreporter.write_line(line)

    def _leaked(self) -> list[str]:
        leaky = self._found.keys() | self._explicit
        if not leaky:
            return []
        from muxleak.ledger.kinds import NOUNS  # noqa: PLC0415 - only runs that find something pay for it

        lines = [f"{_owners(leaky)} left something behind"]
        if self.baseline is not None:
            explicit, new = len(self._explicit), len(self._new.keys() - self._explicit)
            lines[0] += f": {new} new, {len(leaky) - new - explicit} in the baseline"
            lines[0] += f", {explicit} failed by an explicit no_leaks" if explicit else ""
        # The most common first; else in the order of their first appearance.
        for (kind, site), count in self._sites.most_common(_SHOWN):
            owners = _owners(self._tests[kind, site])
            lines.append(f"  {count} x {NOUNS[kind][0]} made at {site} ({owners})")
        if len(self._sites) > _SHOWN:
            lines.append(f"  and {len(self._sites) - _SHOWN} more places")
        return lines

    def _unwarned(self) -> list[str]:
        """Return the reports whose warnings a filter made errors of."""
        count = len(self._refused)
        if not count:
            return []
        more = [f"  and {count - _SHOWN} more"] if count > _SHOWN else []
        head = (
            f"filterwarnings makes an error of {_several(count, 'LeakWarning')}, shown here instead"
        )
        return [head, *self._refused[:_SHOWN], *more]

    def _surplus(self) -> list[str]:
        settings = self.settings
        if settings is None or settings.baseline is None or settings.update:
            return []
        lines = [
            f"  {each.owner}: {each.leak} (baseline {each.expected}, found {each.found})"
            for each in self._excess()
        ]
        lines += [f"  {owner} (there is no such test)" for owner in self._removed]
        if not lines:
            return []
        more = [f"  and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
        head = (
            f"the baseline {settings.baseline} lists leaks that no longer occur: remove them, or "
            "write it again with --leaks-update"
        )
        return [head, *lines[:_SHOWN], *more]

    def _excess(self) -> "list[Excess]":
        from muxleak.plugin.baseline import excess  # noqa: PLC0415 - only runs with a baseline pay for it

        return excess(self.baseline or {}, self._found, self._complete)

    def _write(self, path: Path) -> None:
        from muxleak.plugin.baseline import update  # noqa: PLC0415 - as above

        new = update(path, self._found, self._complete, self._removed)
        count = sum(sum(leaks.values()) for leaks in new.values())
        self._wrote = f"wrote {path}: {_several(count, 'leak')}"
        self._wrote += f" of {_owners(new)}" if new else ""
        if self._explicit:
            owners = _owners(self._explicit)
            self._wrote += f"; without the leaks of {owners} failed by an explicit no_leaks"


def _hidden_line(runner: str, tests: Sequence[str]) -> str:
    return (
        f"{_several(len(tests), 'test')} cannot be checked under {runner}; run them by another "
        f"runner, or mark them leaks_allowed (first: {tests[0]})"
    )


def _owners(names: Collection[str]) -> str:
    fixtures = sum(FIXTURE in each for each in names)
    tests = len(names) - fixtures
    parts = [_several(tests, "test")] if tests else []
    parts += [_several(fixtures, "fixture")] if fixtures else []
    return " and ".join(parts)


def _several(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' if count != 1 else ''}"
