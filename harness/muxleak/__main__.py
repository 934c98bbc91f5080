"""``python -m muxleak`` is the program ``muxleak``."""

from muxleak_scenarios.cli import main

if __name__ == "__main__":
    main()
