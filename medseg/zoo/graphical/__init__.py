"""Networks with a graphical model on top: neighbouring voxels vote on each other's labels."""
