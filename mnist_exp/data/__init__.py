"""Images and labels: found or fetched, checked, resized, split.

Others use `images` (`ImageSplit`, `load`, `stratified_split`; the only one that imports torch), `idx` (datasets as
they were published), `folders` (PNG files), `fetch` and `catalog` (where datasets come from).
"""
