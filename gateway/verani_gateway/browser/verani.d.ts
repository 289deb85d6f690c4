// Types of verani.js. What the client does is said here; verani.js says why it does it so.
//
// The type of a room, which `verani types` writes, has two maps by the names of events:
//
//   export interface Chat {
//     serverEvents: {                                     // what the room sends: `client.on`
//       "chat.message": { from: string; text: string };   // data as listeners get it, without the key `type`
//     };
//     clientEvents: {                                     // what the room takes: `client.emit`, `client.request`
//       "chat.message": { data: { text: string }; result: null };
//       "chat.join": { data: string; result: string[] };
//     };
//   }
//
// `new VeraniClient<Chat>(url)` knows these names only, and the data and the result of each.
// `data` may be left out where its type has `undefined` in it. Without a type, every name and all data are allowed.

/** What every type of a room is like; interfaces fit, index signatures are not needed. */
export interface RoomTypes {
  /** Events that the room sends, by name: the data of each. */
  serverEvents: object;
  /** Events that the room takes, by name: `{ data, result }` of each. */
  clientEvents: object;
}

/** A room of which nothing is known. */
export interface AnyRoom {
  serverEvents: Record<string, any>;
  clientEvents: Record<string, { data: any; result: any }>;
}

/** Names of events that a room sends. */
export type ServerEvent<Room extends RoomTypes> = keyof Room["serverEvents"] & string;
/** Names of events that a room takes. */
export type ClientEvent<Room extends RoomTypes> = keyof Room["clientEvents"] & string;
/** The data of an event that a room sends. Objects have its name as `type`, too. */
export type ServerData<Room extends RoomTypes, Name extends ServerEvent<Room>> = Room["serverEvents"][Name];
/** The data of an event that a room takes. */
export type ClientData<Room extends RoomTypes, Name extends ClientEvent<Room>> =
  Room["clientEvents"][Name] extends { data: infer Data } ? Data : undefined;
/** What a request of this name is answered with; null where no handler returns anything. */
export type ClientResult<Room extends RoomTypes, Name extends ClientEvent<Room>> =
  Room["clientEvents"][Name] extends { result: infer Result } ? Result : null;

/** Data that may be left out if `undefined` is allowed, and what may follow it. */
export type Arguments<Data, More extends unknown[] = []> = undefined extends Data
  ? [data?: Data, ...more: More]
  : [data: Data, ...more: More];

/** `disconnected` is a connection that has ended, for now or for good; `error` is a client that has given up. */
export type ConnectionState = "connecting" | "connected" | "disconnected" | "reconnecting" | "error";

export interface ConnectionStateInfo {
  state: ConnectionState;
  isConnected: boolean;
  isConnecting: boolean;
  /** Waits in a row since a connection last proved itself. */
  reconnectAttempts: number;
  /** Another number for each connection, and a higher one. */
  connectionId: number;
}

/** How a connection ended: code and reason of the close frame, 1006 where it was lost. */
export interface Closing {
  code: number;
  reason: string;
}

/** Before which attempt in a row a client waits, and for how many milliseconds. */
export interface Retry {
  attempt: number;
  delay: number;
}

/** One event of the room, whatever its name. */
export interface RoomEvent {
  type: string;
  data: any;
  channel: string | undefined;
}

/** What the client tells of itself. Events of the room with these names reach `"*"` only, but for `error`. */
export interface LifecycleEvents {
  connecting: undefined;
  open: undefined;
  connected: undefined;
  close: Closing;
  disconnected: Closing;
  reconnecting: Retry;
  /** An attempt that failed, the reason to give up, what a listener has thrown, or data of an event `error`. */
  error: any;
  /** Each event of the room, after the listeners of its name. */
  "*": RoomEvent;
  /** How many frames were dropped, because too many waited for a connection. */
  "verani.dropped": number;
  /** The token ends in so many seconds; only where no function returns tokens, which answers it. */
  "verani.expiring": { seconds: number };
}

export interface ReconnectionConfig {
  /** False: a connection that has ended is the last one. Default true. */
  enabled: boolean;
  /** Failed attempts in a row after which to give up, the first connection included; 0 for never. Default 10. */
  maxAttempts: number;
  /** Milliseconds, the ceiling of the first delay; each delay is random below its ceiling. Default 1000. */
  initialDelay: number;
  /** Milliseconds, the highest ceiling. Default 30000. */
  maxDelay: number;
  /** By how much the ceiling grows with each delay. Default 1.5. */
  backoffMultiplier: number;
}

/** A value, or a function that is called for it each time. */
export type Source<Value> = Value | (() => Value | Promise<Value>);

/** All durations are in milliseconds, at most twelve days. The constructor throws a RangeError for other numbers. */
export interface VeraniClientOptions {
  reconnection?: Partial<ReconnectionConfig>;
  /**
   * How many frames wait for a connection, 16 million characters at most; beyond, the oldest are dropped. A connection
   * that takes nothing drops the newest beyond 16 MiB. Default 100.
   */
  maxQueueSize?: number;
  /** For a token and the handshake together. Default 10000. */
  connectionTimeout?: number;
  /** Between two pings; 0 for none. Default 5000. */
  pingInterval?: number;
  /** How long nothing may come, beyond `pingInterval` after a ping, before the connection counts as lost. Default 5000. */
  pongTimeout?: number;
  /** Sent as the subprotocol `bearer.TOKEN`. A function is asked for each handshake, and for a new one when it expires. */
  token?: Source<string>;
  /** Subprotocols to offer besides. Default `["verani"]` with a token, none without. */
  protocols?: string[];
  /** Where there is no global one (Node before 22), for example that of the package `ws`. */
  WebSocket?: new (url: string, protocols?: string[]) => any;
}

export interface RequestOptions {
  /** Milliseconds until the request fails with `deadline`; Infinity for never. Default 5000. */
  timeout?: number;
  /** Aborting it fails the request with its reason, and takes it back if it was not sent. */
  signal?: AbortSignal;
}

/**
 * What went wrong. `code` is one of the room's (`invalid`, `unauthorized`, `forbidden`, `not_found`, `conflict`,
 * `too_large`, `rate_limited`, `failed`, `busy`, `call_cycle`, `deadline`, `interrupted`), or the client's:
 * `not_sent` (it surely did not run) and `unreachable` (there is no connection).
 */
export class VeraniError extends Error {
  readonly code: string;
  /** Where in its data a request is `invalid`, for example `$.text`. */
  readonly path: string | undefined;
  /** The room's text for people, if it gave one. */
  readonly public: string | undefined;
  /** How the connection ended, where that is the reason. */
  readonly closing: Closing | undefined;
}

/** One client of one room, over one WebSocket that it opens at once and keeps alive. */
export class VeraniClient<Room extends RoomTypes = AnyRoom> {
  /**
   * `url` may be relative to the page, and begin with `http` for `ws`. A function is called for each attempt.
   * Throws a TypeError for a URL or a token that cannot be one.
   */
  constructor(url: Source<string | URL>, options?: VeraniClientOptions);

  /**
   * Call `listener` with the data and the channel of each such event, in order of registration; return what calls
   * `off`. The same listener registered twice is called once. One that throws is told to `error`, others go on.
   */
  on<Name extends ServerEvent<Room>>(
    event: Name,
    listener: (data: ServerData<Room, Name>, channel: string | undefined) => unknown,
  ): () => void;
  on<Name extends keyof LifecycleEvents>(event: Name, listener: (told: LifecycleEvents[Name]) => unknown): () => void;

  /** Like `on`, for the next such event only. */
  once<Name extends ServerEvent<Room>>(
    event: Name,
    listener: (data: ServerData<Room, Name>, channel: string | undefined) => unknown,
  ): () => void;
  once<Name extends keyof LifecycleEvents>(event: Name, listener: (told: LifecycleEvents[Name]) => unknown): () => void;

  /** Forget one listener of an event, or all of them. */
  off(event: ServerEvent<Room> | keyof LifecycleEvents, listener?: (...told: any[]) => unknown): void;

  /**
   * Send an event now, or when there is a connection. Throws `not_sent` after `close`, and a TypeError for a callback or
   * a second value: who wants an answer asks with `request`.
   */
  emit<Name extends ClientEvent<Room>>(event: Name, ...data: Arguments<ClientData<Room, Name>>): void;

  /**
   * Send an event and return the answer of the room's handlers. Rejects with the room's error, or `deadline`,
   * `interrupted` (the connection ended first; it may have run), `too_large`, `not_sent`, or what the room refused
   * this client with.
   */
  request<Name extends ClientEvent<Room>>(
    event: Name,
    ...data: Arguments<ClientData<Room, Name>, [options?: RequestOptions]>
  ): Promise<ClientResult<Room, Name>>;

  getState(): ConnectionState;
  getConnectionState(): ConnectionStateInfo;
  isConnected(): boolean;
  readonly isConnecting: boolean;

  /** Rejects with why the client has given up, or after `timeout` (twice `connectionTimeout` by default). */
  waitForConnection(timeout?: number): Promise<void>;

  onOpen(listener: () => unknown): () => void;
  onClose(listener: (closing: Closing) => unknown): () => void;
  onError(listener: (error: any) => unknown): () => void;
  onStateChange(listener: (state: ConnectionState) => unknown): () => void;

  /** Connect anew and at once, also after `disconnect` or in state `error`; a connection that is there is closed. */
  reconnect(): void;
  /** Close the connection and stay away until `reconnect`. */
  disconnect(code?: number, reason?: string): void;
  /** End for good: as `disconnect`, and drop what waits and all listeners. Calling it again is harmless. */
  close(code?: number, reason?: string): void;
}
