"""Latency as a cost: measured on this machine over the segments of the network, predicted for every genome.

`LatencySettings` say what a forward pass is (batch, threads, device); `measure_table` runs a few dozen cut networks in
turns and fits a `LatencyTable`; `TimedCosts` puts its predictions beside the exact costs.
"""
