"""Django and rooms: its sessions say who connects, and its views call rooms. A project in one file.

Run both: ``verani serve examples.with_django:orders --allowed-origins http://127.0.0.1:8080`` and
``uvicorn examples.with_django:app --port 8080``.
Try it: ``curl -i --json '{"user": "ann"}' http://127.0.0.1:8080/login`` sets a cookie; connect with it to
ws://127.0.0.1:8000/orders/ann, then ``curl --json '{"status": "sent"}' http://127.0.0.1:8080/orders/ann/7`` answers
``{"heard": 1}``, and ann hears it.
"""

import asyncio
import json
import os
from importlib import import_module

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.http import require_POST

from verani import Actor, ConnectionMeta, ConnectRequest, VeraniError, connect_sync, define_room
from verani.auth import cookie_auth

SERVICE = os.environ.get("ORDERS_SERVICE", "http://127.0.0.1:8001")

# In a project of your own this is settings.py, and both processes have DJANGO_SETTINGS_MODULE in their environment.
settings.configure(
    # For the demonstration only: both processes read their secret from the environment.
    SECRET_KEY=os.environ.get("ORDERS_SECRET", "a-secret-for-this-demonstration-only"),
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
    INSTALLED_APPS=["django.contrib.sessions"],
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",  # any other works, too
)
django.setup()

# --- rooms, which `verani serve` runs: one for each user ---------------------------------------------------

Store = import_module(settings.SESSION_ENGINE).SessionStore


async def session(key: str) -> dict[str, str] | None:
    """Look a session up; most engines ask a database, so that waits in a thread."""
    user = await asyncio.to_thread(lambda: Store(session_key=key).get("user"))
    return {"user_id": user} if user else None


orders = define_room(
    "orders", websocket_path="/orders/{room}", extract_meta=cookie_auth(settings.SESSION_COOKIE_NAME, session)
)


@orders.authorize_room
def only_ones_own(meta: ConnectionMeta, request: ConnectRequest) -> bool:
    return meta.user_id == request.room


@orders.rpc
def changed(actor: Actor, order: int, status: str) -> int:
    return actor.emit("order.changed", {"order": order, "status": status})


# --- the project, which uvicorn, or any server for Django, runs -------------------------------------------


@require_POST
def login(request: HttpRequest) -> JsonResponse:
    """Begin a session; a real project has `django.contrib.auth` for this."""
    request.session["user"] = str(json.loads(request.body)["user"])
    return JsonResponse({})


@require_POST
def change(request: HttpRequest, user: str, order: int) -> JsonResponse:
    """Tell all connections of a user what has become of an order, and answer how many there are."""
    status = str(json.loads(request.body)["status"])
    try:
        with connect_sync(SERVICE, token=os.environ.get("VERANI_RPC_TOKEN")) as service:
            return JsonResponse({"heard": service.room(orders, user).changed(order, status)})
    except VeraniError as error:
        return JsonResponse({"error": error.code}, status=error.status)


urlpatterns = [path("login", login), path("orders/<str:user>/<int:order>", change)]
app = get_asgi_application()
