"""The type checker that conftest.py puts around every function of `trip`."""

from beartype import BeartypeConf, beartype

typecheck = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as for static checkers
