# Only what `verani_actors` uses of Thespian 4.0.1.

MAX_PENDING_TRANSMITS: int
