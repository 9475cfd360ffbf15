"""Images and labels: found or fetched, checked, resized, split.

Others use `images` (`ImageSplit`, `load`, `stratified_split`), `datasets` (MNIST and its siblings, by torchvision),
`folders` (PNG files) and `fetch` (where datasets come from). `images` and `datasets` import torch.
"""
