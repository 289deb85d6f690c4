# Only what `verani_actors` uses of Thespian 4.0.1.

from datetime import timedelta

def timePeriodSeconds(basis: timedelta | float) -> float: ...
