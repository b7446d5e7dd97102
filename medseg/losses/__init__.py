"""Loss functions: n-D, float32, one family a file; `table.LOSSES` lists them, `table.build_loss(name, ...)` makes one."""
