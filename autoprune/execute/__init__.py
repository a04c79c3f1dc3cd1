"""Running jobs: in this process, simulated on workers that do not exist, or on Ray."""
