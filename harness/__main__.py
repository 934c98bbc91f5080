"""``python -m harness`` is the program ``muxleak``."""

from harness.cli import main

if __name__ == "__main__":
    main()
