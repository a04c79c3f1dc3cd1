"""What is chosen: one file a search method, behind one ask/tell seam."""
