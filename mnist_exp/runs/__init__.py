"""Everything on disk about runs.

Others use `record` (``run.json``, typed), `lock` (which process works on a run), `results` (their contents) and
`folder` (`RunFolder`, which writes all of a run's files). `folder`, `checkpoint` and `results` import torch.
"""
