"""Random changes of training patches: each is drawn, recorded and replayable; one kind a file."""
