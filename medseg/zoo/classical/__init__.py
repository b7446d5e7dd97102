"""Methods that compute and do not learn."""
