"""Label maps: drawn structures as voxels on the grid of the image that they were drawn on."""
