"""Colors and shapes of every picture: Okabe and Ito's color-blind-safe set, and a marker shape for each role.

Nothing is told apart by color alone.
"""

from __future__ import annotations

from autoprune.store.meta import Role

BLUE = "#0072B2"
ORANGE = "#E69F00"
GREEN = "#009E73"
VERMILLION = "#D55E00"
INK = "#1f2328"
MUTED = "#59636e"
FAINT = "#8c959f"
GRID = "#e8ebee"

ROLE_COLORS = {Role.PROXY: BLUE, Role.VALIDATION: GREEN, Role.TEST: VERMILLION, Role.POLISHED: ORANGE}
ROLE_SYMBOLS = {
    Role.PROXY: "circle",
    Role.VALIDATION: "square-open",
    Role.TEST: "triangle-up-open",
    Role.POLISHED: "hexagon-open",
}
DENSE_SYMBOLS = {
    Role.PROXY: "star",
    Role.VALIDATION: "star-square",
    Role.TEST: "star-triangle-up",
    Role.POLISHED: "hexagram",
}

CIVIDIS = ("#00224e", "#1a386f", "#434e6c", "#61656f", "#7d7c78", "#9b9476", "#bbae6c", "#ddc958", "#fee838")
"""Nine steps of the cividis map, dark to light; safe for every common color deficiency and in gray print."""
