"""The machine and the code that a run is made by.

Others use `determinism` (what makes results vary, fixed), `layout` (of memory, put on networks from outside),
`fingerprint` (checksums of the code), `provenance` (commit, versions, processor) and `parent` (worker processes).
`fingerprint` and `parent` import no torch.
"""
