"""The numpy country: nouns shared by everything else."""
