"""The metrics of this package; importing it registers them, in the order of a report."""

from trip.evaluation.metrics import frechet, consistency, motion, text, first_frame  # noqa: F401, I001
