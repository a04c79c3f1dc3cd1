"""Networks that torchvision lacks, for the search spaces of this folder."""
