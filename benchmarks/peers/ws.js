// Rooms by hand on `ws`, as `benchmarks.servers plain` has them on aiohttp. Prints its port; ends on SIGTERM.
import { createServer } from "node:http";
import { WebSocketServer } from "ws";

const rooms = new Map();
const server = createServer();
const sockets = new WebSocketServer({ server, perMessageDeflate: false });

sockets.on("connection", (socket, request) => {
  const name = new URL(request.url, "http://localhost").searchParams.get("room") ?? "default";
  const room = rooms.get(name) ?? new Set();
  rooms.set(name, room.add(socket));
  socket.on("error", () => {}); // a client that has gone
  socket.on("close", () => room.delete(socket));
  socket.on("message", (message) => {
    const frame = JSON.parse(message);
    const text = JSON.stringify({ type: "event", channel: "default", data: { type: frame.type, ...frame.data } });
    if (frame.type === "cast") {
      for (const member of room) member.send(text);
    } else {
      socket.send(text);
    }
  });
});

process.on("SIGTERM", () => process.exit(0));
server.listen({ port: 0, host: "127.0.0.1", backlog: 4096 }, () => console.log(server.address().port));
