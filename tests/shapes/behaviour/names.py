"""What every client of ours does, in Node, in Chromium and in Python: the names of the scenarios.

Each is played by `scenarios.mjs` and by `python.py`, under these very names; `../test_client_behaviour.py` runs them.
"""

from __future__ import annotations

from typing import Final

__all__ = ["PAGES", "SCENARIOS"]

SCENARIOS: Final = (
    # what comes
    "a client connects and says what happens",
    "a listener gets the data of its events in order",
    "a listener of all events gets name, data and channel",
    "once is one event, and off is none",
    "a listener that throws is told to error and stops nobody",
    "events with names of the client's own reach only those who listen to all",
    # what is sent
    "what is emitted before there is a connection is sent in order",
    "the oldest of too many frames that wait are dropped, and that is told",
    "a name of the client's own is sent all the same",
    # requests
    "a request brings the answer of the room",
    "a request fails with the code of the room, its path and its text",
    "a request waits for the connection",
    "a request fails at its deadline",
    "a request that is taken back before it was sent is never sent",
    "a request whose connection ends may have run, and says how it ended",
    "a request that is too large says so",
    "a request of a client that has ended is not sent",
    "the keepalive is no request",
    # coming back
    "a client comes back after every code but 1000",
    "a client comes back after its connection was lost",
    "what is emitted while there is no connection is sent after it",
    "a connection that answers no ping is given up, and the client comes back",
    "a handshake that takes too long is given up, and tried again",
    "delays grow, are random, and start anew when a connection has proved itself",
    "a connection that the server ends does not start the delays anew",
    "a URL may be another one for each attempt",
    # giving up
    "a client gives up after as many failures as it may have",
    "a client that may try for ever does",
    "a client that may not reconnect does not",
    "a client that the room refuses gives up with the room's reason",
    "a client whose room fails has not proved itself",
    "a client stays away after 1000 until it is told to connect",
    # tokens
    "a token is asked for before each handshake",
    "a token that is about to expire is renewed",
    "a function that fails to give a token is asked again",
    "a token that nobody takes is no connection",
    "a token that no header can carry is refused at once",
    # the end
    "waiting for a connection ends with it, in time, or with the client",
    "close is final and may be repeated",
    "a close code that cannot be sent is refused, and nothing else happens",
    "numbers that make no sense are refused",
)

# Where there is a page, or something that looks like one.
PAGES: Final = (
    "a page that is looked at again comes back at once",
    "a page whose network returns comes back at once",
    "a page that is looked at again finds out that its connection is dead",
    "a page that had given up comes back when it is looked at again",
    "attempts of a device that is offline are not counted",
    "reconnect connects anew",
    "disconnect stays away, also from what the page tells",
    "a request is aborted by its signal",
    "a URL may be that of a page",
)
