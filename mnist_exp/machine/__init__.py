"""The machine and the code that a run is made by.

Others use `determinism` (what makes results vary, fixed), `fingerprint` (checksums of the code, which `syntax` reads),
`provenance` (commit, versions, processor) and `parent` (worker processes). Only `determinism` and `provenance` import
torch.
"""
