"""The shell around the planner: what wakes a reconcile, and carrying out what it says."""
