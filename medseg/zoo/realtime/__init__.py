"""Networks made for speed."""
