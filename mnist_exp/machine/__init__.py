"""The machine a run is on: made deterministic (`determinism`), described (`provenance`), its processes (`parent`)."""
