"""Known ways in which data sets lie on a disk, one a file."""
