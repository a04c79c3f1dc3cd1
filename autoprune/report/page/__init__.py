"""The HTML file, one part of it a module. Everything that comes from a run is escaped where it enters the page."""
