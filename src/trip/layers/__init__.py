"""Building blocks of the 3D-UNet."""
