"""Where there is a page to draw in, the report links to it and sends it misread digits."""

import base64
import io
import re
from pathlib import Path

from PIL import Image


def test_misread_digits_are_a_click_away_from_the_page_to_draw_in(site: Path) -> None:
    page = (site / "report" / "index.html").read_text(encoding="utf-8")
    assert '<li><a href="draw.html">Draw a digit</a></li>' in page
    sent = re.findall(r'<a href="draw\.html#(data:image/png;base64,[^"]+)"><img src="([^"]+)"', page)
    assert sent
    for picture, shown in sent:
        assert picture == shown
        assert Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2]))).size == (28, 28)
