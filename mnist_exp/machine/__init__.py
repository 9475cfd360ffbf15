"""The machine and the code that a run is made by.

Others use `determinism` (what makes results vary, fixed), `fingerprint` (checksums of the code), `provenance`
(commit, versions, processor) and `parent` (worker processes). `fingerprint` and `parent` don't import torch.
"""
