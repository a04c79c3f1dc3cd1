"""Running jobs: in this process, or simulated on workers that do not exist."""
