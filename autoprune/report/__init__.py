"""What a run came to, computed from its folder and drawn: summary, tables, one HTML file, one SVG picture."""
