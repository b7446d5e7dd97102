"""Networks whose idea is an attention block."""
