"""A real browser for tests of pages: Debian's Chromium, driven by playwright-core."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

PACKAGES = ["playwright-core@1.65.1", "axe-core@4.14.1"]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def look(script: Path, page: Path, folder: Path) -> dict[str, Any]:
    """What a script in JavaScript saw in the browser; the test is skipped where something for it is missing.

    Args:
        script: prints JSON; its arguments are the browser, the page's address, the folder, and "root" or "user".
        page: the file to open.
        folder: takes the packages and whatever the script leaves.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here (Debian: apt-get install chromium)")
    if node is None or npm is None:
        pytest.skip("there is no Node.js with npm here")
    (folder / "package.json").write_text("{}")
    install = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error", *PACKAGES]
    try:
        subprocess.run(install, cwd=folder, check=True, capture_output=True, text=True, timeout=180)
    except (subprocess.SubprocessError, OSError) as error:
        pytest.skip(f"npm can't install {' and '.join(PACKAGES)}: {getattr(error, 'stderr', None) or error}")
    shutil.copy(script, folder)
    who = "root" if os.geteuid() == 0 else "user"
    words = [node, str(folder / script.name), CHROMIUM, page.as_uri(), str(folder), who]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert isinstance(result, dict)
    return result
