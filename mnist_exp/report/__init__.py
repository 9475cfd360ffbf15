"""From run folders to tables, figures and a page. Imports no torch.

Others use `build` (all of it), `collect` (runs as groups), `tables`, `statistics` and `published`.
"""

import logging
import os

# Before matplotlib is first imported: it draws to files, with or without a display, and need not report
# that a home folder cannot be written.
os.environ["MPLBACKEND"] = "agg"
logging.getLogger("matplotlib").setLevel(logging.ERROR)
