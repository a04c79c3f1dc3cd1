"""What a comparison says, as tables and as one page: strategies side by side, every seed shown."""
