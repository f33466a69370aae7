// Package carry brings clients to the node that leads. A client that comes in at another node is told nothing of it: the bytes that it sends, after
// TLS and WebSocket are opened, go over a channel of cluster/link to the leader, where the channel is a connection of the engine as any other. It
// owns those channels and what is held of them, at both ends. It knows no protocol: the Protocol says what little has to be known of a client
// that nobody can serve. It stands on engine and link; server makes a Door and hands it to its listeners.
//
// # Who waits for whom
//
// A client that does not read has its node hold what is on its way, a channel's window at most, and then the leader, as for a client of its own. A
// leader that does not read has the client's node stop reading. Nobody else waits for either.
//
// # Goroutines and locks
//
// None is started. Link's goroutines hand messages over and post to the loop of the connection; client.mu and pipe.mu are leaves.
package carry
