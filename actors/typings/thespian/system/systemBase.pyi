# Only what `verani_actors` uses of Thespian 4.0.1.

from datetime import timedelta

MAX_CHILD_ACTOR_CREATE_DELAY: timedelta
