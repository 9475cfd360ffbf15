"""From run folders to tables, figures and a page. Imports no torch.

Read `build` first, which others use: `collect` groups the runs, `image_errors` reads their errors,
`estimates` analyses both (by `statistics` and `crossed`), and `tables`, `figures` and `page` show what came out.
"""

import logging
import os

# Before matplotlib is first imported: it draws to files, with or without a display, and need not report
# that a home folder cannot be written.
os.environ["MPLBACKEND"] = "agg"
logging.getLogger("matplotlib").setLevel(logging.ERROR)
