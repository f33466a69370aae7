// Package bridge keeps connections to other MQTT brokers, over which messages go there and come from there.
//
// A Bridge is a client of both sides and holds nothing itself: the session that it has here keeps what is to go out, the session that it
// has there what is to come in, and it hands the packets of the one to the other under the same packet identifiers. So an acknowledgement
// of the one side is given to the other only when it has come, and a handshake of QoS 2 that was cut goes on where it was, whichever of the
// three has died. It knows topics and addresses; it never stores a message, and never touches a table of the core. The server makes it, with
// an engine.Inlet for its connection to the own node.
package bridge
