"""Outputs that hang together, such as the landmarks of a face: a plug-in for autoprune."""
