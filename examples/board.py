"""Two kinds of rooms in one service: boards to draw on together, and a gallery that says which boards are busy.

Each has a path of its own, since two cannot both be at ``/ws``, and rates that fit it: of a pointer on its way only the
newest place matters, so what is above 30 a second is dropped; strokes may be large, and none may get lost.

Run it: ``verani serve examples.board:board examples.board:gallery``.
Try it: connect to ws://127.0.0.1:8000/gallery, and to ws://127.0.0.1:8000/board/plans?userId=ann twice; send
``{"type": "stroke", "data": [[0, 0], [10, 12.5]]}`` on one board: the other gets the stroke, the gallery gets ``busy``.
"""

from typing import Annotated

from msgspec import Meta, Struct

from verani import Context, define_room

Point = tuple[float, float]
Stroke = Annotated[list[Point], Meta(min_length=1, max_length=2000)]

board = define_room("board", websocket_path="/board/{room}", rate_limit=60, rate_limit_bytes=256 << 10)
gallery = define_room("gallery", websocket_path="/gallery", rate_limit=5, rate_policy="close")


@board.event("cursor")
class Cursor(Struct):
    user: str
    at: Point


@board.event("stroke")
class Drawn(Struct):
    user: str
    points: Stroke


@gallery.event("busy")
class Busy(Struct):
    board: str


@board.on("cursor", rate=30, policy="drop")
def cursor(ctx: Context, at: Point) -> None:
    ctx.to_channel("default").emit("cursor", Cursor(ctx.meta.user_id, at))


@board.on("stroke")
async def stroke(ctx: Context, points: Stroke) -> None:
    ctx.to_channel("default").emit("stroke", Drawn(ctx.meta.user_id, points))
    board_id = ctx.actor.name.partition("/")[2]
    await ctx.actor.stub(gallery, "default").emit_to_channel("default", "busy", Busy(board_id))
