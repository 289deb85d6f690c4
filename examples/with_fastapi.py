"""FastAPI and rooms: the tokens that FastAPI issues say who connects, and its handlers call rooms.

Run both: ``verani serve examples.with_fastapi:orders --allowed-origins http://127.0.0.1:8080`` and
``uvicorn examples.with_fastapi:app --port 8080``.
Try it: ``curl --json '{"user": "ann"}' http://127.0.0.1:8080/login`` answers with a token; connect with it to
ws://127.0.0.1:8000/orders/ann?token=..., then
``curl --json '{"status": "sent"}' http://127.0.0.1:8080/orders/ann/7`` answers ``{"heard": 1}``, and ann hears it.
"""

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import jwt
from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel, Field

from verani import Actor, ConnectionMeta, ConnectRequest, VeraniError, connect, define_room
from verani.auth import jwt_auth

# For the demonstration only: both processes read their secret from the environment.
SECRET = os.environ.get("ORDERS_SECRET", "a-secret-for-this-demonstration-only")
SERVICE = os.environ.get("ORDERS_SERVICE", "http://127.0.0.1:8001")

# --- rooms, which `verani serve` runs: one for each user ---------------------------------------------------

orders = define_room(
    "orders",
    websocket_path="/orders/{room}",
    extract_meta=jwt_auth(algorithms=["HS256"], audience="orders", key=SECRET),
)


@orders.authorize_room
def only_ones_own(meta: ConnectionMeta, request: ConnectRequest) -> bool:
    return meta.user_id == request.room


@orders.rpc
def changed(actor: Actor, order: int, status: str) -> int:
    return actor.emit("order.changed", {"order": order, "status": status})


# --- the application, which uvicorn runs ------------------------------------------------------------------


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with connect(SERVICE, token=os.environ.get("VERANI_RPC_TOKEN")) as service:
        app.state.rooms = service
        yield


app = FastAPI(lifespan=lifespan)


class Login(BaseModel):
    user: str = Field(min_length=1, max_length=100)


class Change(BaseModel):
    status: str = Field(min_length=1, max_length=50)


@app.post("/login")
async def login(login: Login) -> dict[str, str]:
    """Issue a token for an hour; a real application asks for a password first."""
    claims = {"sub": login.user, "aud": "orders", "exp": time.time() + 3600}
    return {"token": jwt.encode(claims, SECRET)}


@app.post("/orders/{user}/{order}")
async def change(user: str, order: int, change: Change, request: Request) -> dict[str, int]:
    """Tell all connections of a user what has become of an order, and answer how many there are."""
    room = request.app.state.rooms.room(orders, user)
    try:
        return {"heard": await room.changed(order, change.status)}
    except VeraniError as error:
        raise HTTPException(error.status, error.code) from error
