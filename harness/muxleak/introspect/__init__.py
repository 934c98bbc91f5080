"""Creation sites, the stacks of tasks, and referrers."""
