"""From run folders to tables and figures. Imports no torch."""

import logging
import os

# Set before matplotlib is first imported: it draws to files, with or without a display, and need not
# mention that a home folder can't be written.
os.environ["MPLBACKEND"] = "agg"
logging.getLogger("matplotlib").setLevel(logging.ERROR)
