// Package engine is the reactor: listeners, connections, TLS, WebSocket, deadlines, write coalescing and back-pressure. It owns the
// sockets, the loops that serve them and every buffer between a socket and a protocol. It knows bytes and no protocol, keeps no
// session, and never calls a protocol from any goroutine but the loop of the connection. Protocols (proto/X) stand on it as a Handler;
// it stands on alloc.
//
// # Loops
//
// A Loop is one goroutine per core. It reads, parses and writes its connections, and nothing else touches them; other goroutines Post
// to it. One turn of a loop is: wait, read what is readable, deliver, run what was posted, look at deadlines, run the turn-end hooks,
// write each connection that has output once, report what was closed. Time is read once per turn.
//
// # Transports
//
// Two transports stand behind one Conn: epoll (Linux, epoll_linux.go), and netpoll (netpoll.go). Above the socket all is shared: the out
// queue, TLS, WebSocket, deadlines. docs/adr/0002-transport.md says which is used when, and why. Who has
// bytes of a connection without having its socket feeds them through a Pipe (fed.go): no descriptor, no goroutine, and the rest is the same.
//
// # Who owns the bytes
//
// What OnData gets is a view of the loop's own buffer and dies when OnData returns. What it did not take is kept in a pooled buffer of
// the connection until it is taken. What is written is copied at once (Write, Reserve), or held by reference until the kernel has it
// (WriteBlock). An idle connection holds no buffer, no goroutine and no timer.
//
// # Locks
//
// Loop.inbox and handshake.mu are leaves: nothing is called under them. listener.mu guards a listener's life and is never held on a loop.
package engine
