"""Cost of the plugin: 500 trivial async tests, without it, with it loaded but off, and strict.

Run ``python tests/benchmarks/bench_plugin.py [ROUNDS]``. Each variant is a process of its own;
variants run in turns; figures are medians of wall-clock and CPU time. Ratios can be compared
between runs, the figures cannot.
"""

# ruff: noqa: T201 - a benchmark prints

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TESTS = 500
ROUNDS = 9
ROOT = Path(__file__).resolve().parents[2]
PYTHONPATH = os.pathsep.join(str(ROOT / each) for each in ("harness", "vless", "scenarios"))
VARIANTS = {
    "without": ["-p", "no:muxleak"],
    "off": ["-p", "muxleak.plugin"],
    "strict": ["-p", "muxleak.plugin", "--leaks=strict"],
}
SUITE = "import asyncio\n" + "".join(
    f"\nasync def test_{number}():\n    await asyncio.sleep(0)\n" for number in range(TESTS)
)


def _run(folder: Path, arguments: list[str]) -> tuple[float, float]:
    """Run the suite; return the seconds of wall-clock and of CPU time."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "pytest_asyncio.plugin", *arguments]
    # Only the named plugins, so that the variants differ by ours alone.
    environ = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": PYTHONPATH}
    # Compiled modules are kept between runs, as they are where the plugin is installed.
    environ["PYTHONPYCACHEPREFIX"] = str(folder / "compiled")
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    before, began = _cpu(), time.perf_counter()
    done = subprocess.run(  # noqa: S603 - our own interpreter
        command, cwd=folder, env=environ, capture_output=True, text=True, check=False
    )
    wall, cpu = time.perf_counter() - began, _cpu() - before
    if f"{TESTS} passed" not in done.stdout:
        raise SystemExit(done.stdout + done.stderr)
    return wall, cpu


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(rounds: int) -> None:
    """Print the ratios."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "test_trivial.py").write_text(SUITE)
        (folder / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
        for arguments in VARIANTS.values():
            _run(folder, arguments)
        for _ in range(rounds):
            for variant, arguments in VARIANTS.items():
                spent[variant].append(_run(folder, arguments))
    print(f"Python {sys.version.split()[0]}, {TESTS} trivial async tests, {rounds} rounds")
    bare_wall, bare_cpu = (statistics.median(each) for each in zip(*spent["without"], strict=True))
    for variant, pairs in spent.items():
        wall, cpu = (statistics.median(each) for each in zip(*pairs, strict=True))
        print(
            f"  {variant:8} wall {wall:6.3f} s {wall / bare_wall:5.3f}x"
            f"   CPU {cpu:6.3f} s {cpu / bare_cpu:5.3f}x"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
