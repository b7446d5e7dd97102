"""What the data are like, and every decision that follows from it, written down with its reason."""
