"""Start the actor system of one machine and its hosts: `python -m verani_actors.processes.launcher RUNTIME_FOLDER`.

The launcher is one thread that never imports what users write; one beside it looks up the leader's name. It starts
Thespian's Admin, on the leader's machine the registrar, creates and ends hosts as the registrar says, tells it which of
them have died and how, and writes epochs down for the gateways. Where rooms go is none of its business.

Nothing it has started outlives it: the kernel kills its processes with it (`verani_actors.upkeep.lifeline`), and it
ends when its starter does. It exits with 0 after SIGTERM or the end of its standard input, with 3 when the registrar
has ended the whole service, and with 1 when the actor system cannot start or has lost its Admin: whoever started it may
start it again.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from typing import Final

from verani.errors import VeraniError

from ..membership.control import launcher_name
from ..upkeep.lifeline import die_with_parent, tie_children
from ..upkeep.logs import log_to_stderr
from ..upkeep.runtime import Plan, Runtime
from .admin_port import hold_port, resolve
from .children import Children
from .environment import prepare
from .leader import Leader

__all__ = ["SECRET", "main"]

logger = logging.getLogger("verani_actors.processes.launcher")  # not __main__, as which it runs

SECRET: Final = "VERANI_CLUSTER_SECRET"
# How often in a lease each process is asked whether it does anything.
_PROBES: Final = 6


def main(arguments: list[str]) -> int:
    """Run a launcher for this runtime folder; whatever prevents it is told in one sentence."""
    starter = os.getppid()
    if len(arguments) != 1:
        print("usage: python -m verani_actors.processes.launcher RUNTIME_FOLDER", file=sys.stderr)  # noqa: T201
        return 2
    # Before anything of the user's can run, and before anything is forked.
    secret = os.environ.pop(SECRET, "")
    runtime = Runtime(arguments[0])
    try:
        plan = runtime.read_plan()
    except OSError as error:
        print(f"no plan in {arguments[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201
        return 1
    log_to_stderr(plan.settings.log_level, plan.settings.log_format)
    # The terminal's Ctrl-C is for the supervisor.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(starter)
    try:
        return _launch(runtime, plan, secret.encode())
    except VeraniError as error:
        logger.error("%s", error)
        return 1


def _launch(runtime: Runtime, plan: Plan, secret: bytes) -> int:
    if sys.platform != "linux":
        raise VeraniError(f"several processes (hosts) need Linux, this is {sys.platform}")
    if not secret:
        raise VeraniError(f"expected a cluster secret in {SECRET}")
    address = resolve(plan.address)
    held = hold_port(address, plan.admin_port)
    port = int(held.getsockname()[1])
    os.register_at_fork(after_in_child=held.close)
    prepare(address)
    gc.disable()  # nothing of what is imported is garbage
    # Only now, because Thespian reads the environment when it is imported. The rest is imported for the hosts: they
    # are forked with it.
    from thespian.actors import ActorSystemException

    from . import hardened, host_actor, registrar_actor  # noqa: F401
    from .control_plane import ControlPlane
    from .launcher_loop import Launcher

    gc.freeze()  # what is imported stays: processes that are forked from here share it, and look for no garbage in it
    gc.enable()
    hardened.harden(secret)
    announcements = tie_children()
    capabilities = {"Admin Port": port, "Verani Machine": plan.machine}
    leader = Leader(plan.leader) if plan.leader else None
    if leader is not None:
        capabilities["Convention Address.IPv4"] = f"{leader.address}:{leader.port}"
    try:
        base, system = hardened.start(capabilities, plan.settings.log_level, plan.settings.log_format)
    except ActorSystemException as error:
        raise VeraniError(f"the actor system did not start at {address}:{port}: {error}") from error
    held.close()
    children = Children(announcements, plan.settings.lease / _PROBES)
    plane = ControlPlane(base, system, children, launcher_name(plan.machine), runtime.folder)
    return Launcher(runtime, plan, plane, children, port, leader).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
