"""Networks that gather context at several scales."""
