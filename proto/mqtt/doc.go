// Package mqtt is the state machine of an MQTT 3.1, 3.1.1 or 5.0 connection: what a client may say when, what is answered, and how
// messages of the core leave for it. It stands between engine (bytes), wire (packets) and broker (sessions, subscriptions, delivery).
//
// It owns what lives as long as the connection: the order of acknowledgements, packet identifiers in flight, topic aliases, the
// bounded queue of a session without expiry, cached access decisions, and the counters of all that. It never routes, stores or
// retries a message, opens no socket, and knows no other protocol. What outlives the connection is the core's.
//
// # Threads
//
// A conn belongs to its loop: every method of engine.Handler and broker.Subscriber runs there. Passwords are verified by a bounded
// pool (auth.go), which posts its answer to the loop. Handler's own methods (Recheck, Shutdown, Snapshot) may be called from anywhere.
//
// # Who owns the bytes
//
// Packets are views of the loop's input and die with OnData; what is kept is copied: the CONNECT while its client is verified, an
// alias' topic, a message that waits for a place in the window. Outgoing packets are appended to the connection's out queue.
//
// # Files
//
// conn.go is the packet loop and the end of a connection; connect.go, auth.go and will.go its beginning; publish.go messages in,
// deliver.go and queue.go messages out; inflight.go the identifiers and the order of answers; subscribe.go, recheck.go, metrics.go
// and reason.go what their names say.
package mqtt
