"""Simulation: unmodified asyncio programs on virtual time and a network in memory, searched."""

from muxleak.sim.choices import Choices
from muxleak.sim.errors import DeadlockError, LivelockError, SimulationError
from muxleak.sim.programs import ProgramError, find_program
from muxleak.sim.replay import Replay, ReplayError
from muxleak.sim.run import Run, Simulation, check_connections, current
from muxleak.sim.settings import Network, Settings
from muxleak.sim.simulate import Options, SimulationOutcome, replay, rerun, simulate, simulated
from muxleak.sim.time_limits import TimeLimitError

__all__ = [
    "Choices",
    "DeadlockError",
    "LivelockError",
    "Network",
    "Options",
    "ProgramError",
    "Replay",
    "ReplayError",
    "Run",
    "Settings",
    "Simulation",
    "SimulationError",
    "SimulationOutcome",
    "TimeLimitError",
    "check_connections",
    "current",
    "find_program",
    "replay",
    "rerun",
    "simulate",
    "simulated",
]
