"""What a training does beside learning from labelled batches: one procedure a file, by name in `table.py`."""
