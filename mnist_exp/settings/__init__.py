"""A run's settings: their schema, the identity and name that follow from them, and the objects that they build.

Others use `schema` (dataclasses), `identity` (names and hashes) and `factory` (models, optimizers and
schedules from ``_target_``; the only one of the three that imports torch).
"""
