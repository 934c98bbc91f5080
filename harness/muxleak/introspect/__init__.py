"""Facts read from a running program: creation sites, stacks of tasks, referrers."""
