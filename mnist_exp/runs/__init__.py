"""Everything on disk about runs.

Others use `record` (``run.json``, typed), `read` (finished runs, for all who read them), `sweeps` (a sweep's jobs),
`lock` (which process works on a run) and `folder` (`RunFolder`, which writes a run's files; with `checkpoint` and
`results`, and torch).
"""
