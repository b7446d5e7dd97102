"""Quality and speed of every classical method: `medseg bench classical`."""
