"""Everything on disk about runs.

Others use `record` (``run.json``, typed), `lock` (which process works on a run) and `folder` (`RunFolder`,
which writes all of a run's files; with `checkpoint`, the only part that imports torch).
"""
