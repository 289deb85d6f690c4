"""Starlette and rooms: its session cookie says who connects, and its handlers call rooms.

Run both: ``verani serve examples.with_starlette:orders --allowed-origins http://127.0.0.1:8080`` and
``uvicorn examples.with_starlette:app --port 8080``.
Try it: ``curl -i --json '{"user": "ann"}' http://127.0.0.1:8080/login`` sets a cookie; connect with it to
ws://127.0.0.1:8000/orders/ann, then ``curl --json '{"status": "sent"}' http://127.0.0.1:8080/orders/ann/7`` answers
``{"heard": 1}``, and ann hears it. Browsers send a cookie to all ports of a host name, so a page of the application
only has to use the same name for both.
"""

import json
import os
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import itsdangerous
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from verani import Actor, ConnectionMeta, ConnectRequest, VeraniError, connect, define_room
from verani.auth import cookie_auth

# For the demonstration only: both processes read their secret from the environment.
SECRET = os.environ.get("ORDERS_SECRET", "a-secret-for-this-demonstration-only")
SERVICE = os.environ.get("ORDERS_SERVICE", "http://127.0.0.1:8001")
TWO_WEEKS = 14 * 24 * 3600  # how long a session lasts

# --- rooms, which `verani serve` runs: one for each user ---------------------------------------------------


async def session(value: str) -> dict[str, str] | None:
    """Read the cookie as Starlette's SessionMiddleware does."""
    try:
        data = itsdangerous.TimestampSigner(SECRET).unsign(value, max_age=TWO_WEEKS)
    except itsdangerous.BadSignature:
        return None
    user = json.loads(b64decode(data)).get("user")
    return {"user_id": user} if user else None


orders = define_room("orders", websocket_path="/orders/{room}", extract_meta=cookie_auth("session", session))


@orders.authorize_room
def only_ones_own(meta: ConnectionMeta, request: ConnectRequest) -> bool:
    return meta.user_id == request.room


@orders.rpc
def changed(actor: Actor, order: int, status: str) -> int:
    return actor.emit("order.changed", {"order": order, "status": status})


# --- the application, which uvicorn runs ------------------------------------------------------------------


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with connect(SERVICE, token=os.environ.get("VERANI_RPC_TOKEN")) as service:
        app.state.rooms = service
        yield


async def login(request: Request) -> JSONResponse:
    """Begin a session; a real application asks for a password first."""
    request.session["user"] = str((await request.json())["user"])
    return JSONResponse({})


async def change(request: Request) -> JSONResponse:
    """Tell all connections of a user what has become of an order, and answer how many there are."""
    room = request.app.state.rooms.room(orders, request.path_params["user"])
    status = str((await request.json())["status"])
    try:
        return JSONResponse({"heard": await room.changed(request.path_params["order"], status)})
    except VeraniError as error:
        return JSONResponse({"error": error.code}, error.status)


app = Starlette(
    lifespan=lifespan,
    middleware=[Middleware(SessionMiddleware, secret_key=SECRET, max_age=TWO_WEEKS)],
    routes=[
        Route("/login", login, methods=["POST"]),
        Route("/orders/{user}/{order:int}", change, methods=["POST"]),
    ],
)
