// Package link is how the nodes of a cluster talk: one connection for each pair of nodes, over one port, with mutual TLS, on which
// channels of several kinds run side by side. It owns sockets, handshakes, frames, credit, keep-alive and reconnecting. It knows bytes
// alone: what a message means is the affair of who opened the channel (raft, replication, requests between brokers, clients that are
// carried). docs/format/link.md has every byte.
//
// # Promises
//
// Every message of a channel arrives once, whole, in the order in which it was sent, or the channel ends at both ends with a reason. A
// channel whose receiver stands still holds up its own senders and nobody else. A peer that breaks a rule loses the connection, with a
// Reason that both logs name.
//
// # Goroutines and locks
//
// A connection has two goroutines: one reads and calls every Receiver of the connection, one writes. Nothing is started per channel or
// message. Events.Up comes before the first and Events.Down behind the last call of a connection's receivers; of two connections to one
// node that follow each other, likewise. Mesh.mu, conn.mu and calls.mu are leaves: no callback, no lock and no I/O happens under them.
//
// # Who owns the bytes
//
// Send copies what it is given; SendRef takes over one count of it and releases that once it is written. A Message is the receiver's until
// it calls Release, which gives credit back; it may do so from any goroutine.
package link
