"""The checks for leaks: `no_leaks`, growth, reports, settling and teardown."""
