"""Images and labels: found or fetched, checked, resized, split.

Others use `images` (`ImageSplit`, `load`, `stratified_split`; imports torch), `idx` (datasets as they were
published), `folders` (PNG files), `fetch` and `catalog` (where datasets come from); only `images` needs torch.
"""
