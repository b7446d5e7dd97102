"""The zoo: every system of the catalog, one paper a file."""
