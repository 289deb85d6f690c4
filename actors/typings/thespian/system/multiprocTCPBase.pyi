# Only what `verani_actors` uses of Thespian 4.0.1.

from thespian.system.multiprocCommon import multiprocessCommon

class ActorSystemBase(multiprocessCommon): ...
