"""Final training of chosen points: one after the other in this process, or side by side on Ray Tune.

Points never compete: as many come out as went in.
"""
