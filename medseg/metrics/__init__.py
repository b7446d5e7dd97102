"""Measures of agreement between two masks: pure functions of a `Pair`, one family a file; `table.METRICS` lists them."""
