"""Simulation: unmodified asyncio programs on virtual time and a network in memory, searched."""

from harness.fence import DeadlockError, LivelockError, SimulationError
from harness.sim.choices import Choices
from harness.sim.programs import ProgramError, find_program
from harness.sim.replay import Replay, ReplayError
from harness.sim.run import Run, Simulation, current
from harness.sim.search import Finding, Progress, find_leaks
from harness.sim.settings import Network, Settings
from harness.sim.simulate import Options, Outcome, replay, rerun, simulate, simulated

__all__ = [
    "Choices",
    "DeadlockError",
    "Finding",
    "LivelockError",
    "Network",
    "Options",
    "Outcome",
    "ProgramError",
    "Progress",
    "Replay",
    "ReplayError",
    "Run",
    "Settings",
    "Simulation",
    "SimulationError",
    "current",
    "find_leaks",
    "find_program",
    "replay",
    "rerun",
    "simulate",
    "simulated",
]
