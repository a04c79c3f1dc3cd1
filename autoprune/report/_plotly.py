"""The door to plotly: its browser library, packed for one self-contained file.

Plotly's Python package ships the full library only (4.8 MB); gzip and base64 make it 2.0 MB, which every browser since
2023 unpacks by itself (``DecompressionStream``). Figures are plain dictionaries in plotly's documented format.
"""

from __future__ import annotations

import base64
import gzip

from plotly.offline import get_plotlyjs


def packed_library() -> str:
    """Return plotly.js as base64 of gzip; the same text for the same version of plotly."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()
