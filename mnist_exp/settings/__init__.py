"""A run's settings: their schema, the identity and name that follow from them, and the objects that they build.

Others use `schema` (dataclasses), `identity` (names and hashes), `components` (which classes may be named, and what is
refused) and `factory` (models, optimizers and schedules). The last two import torch.
"""
