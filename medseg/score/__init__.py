"""From predictions to tables: `stage` for a run, `folders` for any two folders of masks, `compare` for two systems."""
