"""Measurements of this package against plain PyTorch, against its peers and against what the machine can do."""
