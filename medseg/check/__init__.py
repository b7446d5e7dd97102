"""What can be wrong with the data, one question a file."""
