"""Networks that fuse context in other ways: objects, large kernels, refinement."""
