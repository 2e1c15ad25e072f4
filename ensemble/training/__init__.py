"""One training run in plain PyTorch: configuration, backbones, loop, metrics, members on disk."""
