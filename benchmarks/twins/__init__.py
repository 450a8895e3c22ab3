"""The peers: the zoo's networks and metrics in plain PyTorch, from the same tables. They import torch, NumPy and Pillow only."""
