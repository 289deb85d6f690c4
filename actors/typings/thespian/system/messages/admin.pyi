# Only what `verani_actors` uses of Thespian 4.0.1.

from thespian.actors import ActorSystemMessage

class SystemShutdown(ActorSystemMessage): ...
