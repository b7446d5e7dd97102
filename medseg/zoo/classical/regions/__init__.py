"""Methods that grow, split, merge or flood regions."""
