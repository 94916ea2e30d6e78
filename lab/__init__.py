"""How trip-mini was made: its pictures, its autoencoder, its averages of weights. No part of the package."""
