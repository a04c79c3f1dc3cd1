"""Laws that every implementation of a seam must keep, reusable by third parties."""
