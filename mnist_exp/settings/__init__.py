"""What a run is told: the schema of its settings, its identity and name, and the objects they build.

Others use `schema` (dataclasses), `identity` (names and hashes) and `factory` (models, optimizers and
schedules from ``_target_``; the only one of the three that imports torch).
"""
