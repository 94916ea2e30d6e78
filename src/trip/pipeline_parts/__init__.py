"""What `TripPipeline` is put together from: starts, checks, encoding, and what a running call shows."""
