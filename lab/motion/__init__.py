"""Does a model move as it is asked to: the questions and the count of right answers behind docs/results."""
