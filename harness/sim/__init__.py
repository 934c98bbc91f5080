"""Simulation: unmodified asyncio programs on virtual time and a network in memory, searched."""

from harness.fence import DeadlockError, LivelockError, SimulationError
from harness.sim.choices import Choices
from harness.sim.replay import Replay, ReplayError
from harness.sim.run import Run, Simulation, current
from harness.sim.search import Finding, find_leaks
from harness.sim.settings import Network, Settings
from harness.sim.simulate import Options, Outcome, replay, simulate, simulated

__all__ = [
    "Choices",
    "DeadlockError",
    "Finding",
    "LivelockError",
    "Network",
    "Options",
    "Outcome",
    "Replay",
    "ReplayError",
    "Run",
    "Settings",
    "Simulation",
    "SimulationError",
    "current",
    "find_leaks",
    "replay",
    "simulate",
    "simulated",
]
