package server

import (
	"github.com/sluicemq/sluice/cluster/carry"
	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/engine"
)

// carryTo has MQTT clients of this node served by the one that leads. It comes before the mesh is connected.
func (n *node) carryTo(l carry.Leader, m *link.Mesh) {
	n.carry = carry.New(carry.Options{Mesh: m, Engine: n.engine, Leader: l, Wait: n.o.election, Logger: n.o.logger})
}

// serveCarried takes in what other nodes bring.
func (n *node) serveCarried() {
	if n.carry != nil {
		n.carry.Serve(n.mqtt, n.inlets())
	}
}

// mqttHandler is what MQTT's listeners hand their connections to.
func (n *node) mqttHandler() engine.Handler {
	if n.carry != nil {
		return n.carry
	}
	return n.mqtt
}

// mqttListener is what all connections of a listener for MQTT have in common, whether they come by its socket or are brought by another node.
func (n *node) mqttListener(name string) engine.ListenerOptions {
	return engine.ListenerOptions{Name: name, FirstPacketTimeout: n.o.door.connectTimeout, HighWater: max(n.o.settings.QueueBytes/2, 4<<10)}
}

// mqttListeners are all that a node may have: what one has not itself, another one may have clients of.
var mqttListeners = []string{"mqtt.tcp", "mqtt.tls", "mqtt.ws", "mqtt.wss", "mqtt.unix"}

// inlets are the listeners whose clients other nodes may bring.
func (n *node) inlets() (list []engine.ListenerOptions) {
	for _, name := range mqttListeners {
		o := n.mqttListener(name)
		if name == "mqtt.unix" {
			o.Network = "unix"
		}
		list = append(list, o)
	}
	return list
}
