// Rooms on Bun's own publish and subscribe, which is C++. Prints its port; ends on SIGTERM.
const server = Bun.serve({
  port: 0,
  hostname: "127.0.0.1",
  fetch(request, server) {
    const room = new URL(request.url).searchParams.get("room") ?? "default";
    return server.upgrade(request, { data: { room } }) ? undefined : new Response("no handshake", { status: 400 });
  },
  websocket: {
    perMessageDeflate: false,
    idleTimeout: 0,
    open(socket) {
      socket.subscribe(socket.data.room);
    },
    message(socket, message) {
      const frame = JSON.parse(message);
      const text = JSON.stringify({ type: "event", channel: "default", data: { type: frame.type, ...frame.data } });
      if (frame.type === "cast") {
        server.publish(socket.data.room, text);
      } else {
        socket.send(text);
      }
    },
  },
});

process.on("SIGTERM", () => process.exit(0));
console.log(server.port);
