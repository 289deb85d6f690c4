// Rooms of Socket.IO. Prints its port; ends on SIGTERM.
import { createServer } from "node:http";
import { Server } from "socket.io";

const server = createServer();
const io = new Server(server, { transports: ["websocket"], serveClient: false });

io.on("connection", (socket) => {
  const room = socket.handshake.query.room ?? "default";
  socket.join(room);
  socket.on("cast", (data) => io.to(room).emit("cast", data));
  socket.on("echo", (data) => socket.emit("echo", data));
});

process.on("SIGTERM", () => process.exit(0));
server.listen({ port: 0, host: "127.0.0.1", backlog: 4096 }, () => console.log(server.address().port));
