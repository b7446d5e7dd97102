"""Training: one loop, its sampler, its schedule and its checkpoints."""
