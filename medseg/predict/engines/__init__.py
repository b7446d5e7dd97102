"""What computes a window: PyTorch as it is, or a converted network. All answer (B, C, *S) with logits (B, K, *S)."""
