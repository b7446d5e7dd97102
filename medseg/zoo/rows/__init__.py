"""The catalog's rows, one family a file: data only, importable without torch."""
