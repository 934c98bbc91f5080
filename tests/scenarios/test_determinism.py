"""The same line is the same run: in one process, in a fresh one, under any hash seed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import muxleak_scenarios
from muxleak_scenarios import Sequence, run_sequence
from muxleak_vless.versions import VERSIONS
from source_roots import PYTHONPATH

LINE = (
    "a:open b:open~1 a:new:1:@echo+60~0 b:new:1:stubborn~0 a:new:2:flood~2 c:connect"
    " a:data:1+2000 b:new:1:echo+5 c:header~0 c:new:7:@silent+60 a:new:2:echo a:abort~0 cancel~0"
    " b:data:1+5 c:half"
)

# Every callback that the loop is given, in order, and what came of it all.
PROGRAM = """
import asyncio, hashlib, json, sys
from muxleak import VirtualLoop
from muxleak.introspect.waiting import called_by
from muxleak_scenarios import Sequence, find_violation, load_pairs, run_sequence
from muxleak_vless.versions import VERSIONS

order = []
def recorded(schedule):
    def record(loop, *args, **settings):
        handle = schedule(loop, *args, **settings)
        order.append(called_by(handle))
        return handle
    return record
for name in ("call_soon", "call_later", "call_at"):
    setattr(VirtualLoop, name, recorded(getattr(VirtualLoop, name)))

line, version = sys.argv[1:]
outcome = run_sequence(Sequence.parse(line), VERSIONS[version]())
events = hashlib.sha256("\\n".join(order).encode()).hexdigest()
found = find_violation(next(iter(load_pairs().values())).buggy, seed=4, examples=50)
print(json.dumps([
    len(order), events, outcome.to_json(), str(outcome.report),
    [str(found.outcome.sequence), found.examples, found.connections],
]))
"""


def in_a_fresh_process(version: str, hash_seed: str) -> str:
    """Run the program in a new interpreter."""
    root = str(Path(muxleak_scenarios.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", PROGRAM, LINE, version],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("version", ["V0", "V1", "REF"])
def test_run_is_the_same_in_fresh_processes(version: str) -> None:
    """Order of events, outcome, report text and search do not depend on the hash seed."""
    first, *others = (in_a_fresh_process(version, seed) for seed in ("0", "1", "4242"))

    assert others == [first, first]
    assert json.loads(first)[0] > 100


@pytest.mark.parametrize("version", VERSIONS)
def test_run_is_the_same_again(version: str) -> None:
    """Twice in one process: outcome and report are equal."""
    sequence = Sequence.parse(LINE)
    first, second = (run_sequence(sequence, VERSIONS[version]()) for _ in range(2))

    assert first.to_json() == second.to_json()
    assert str(first.report) == str(second.report)


def test_reports_name_no_address_and_no_absolute_path() -> None:
    """Reports can be compared between machines."""
    report = str(run_sequence(Sequence.parse(LINE), VERSIONS["V0"]()).report)

    assert "tasks leaked" in report
    assert "0x" not in report
    assert str(Path(muxleak_scenarios.__file__).parent.parent) not in report
