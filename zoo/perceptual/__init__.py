"""Pretrained feature networks, as native Keras graphs, and the readers of their weight files.

`weights` reads files of other frameworks without those frameworks and without executing what the files name;
`sources` knows which file each network needs, where it comes from and its hash (NumPy only: importing it does not import
TensorFlow); `efficientnet_lite`, `lpips` and `inception` are the networks.
"""
