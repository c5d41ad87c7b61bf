"""Label maps: structures converted to voxels on the grid of the image on which they were drawn."""
