"""Many cases at once: executors, and the journal of what became of each case."""
