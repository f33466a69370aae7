package server

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/sluicemq/sluice/cluster/carry"
	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/engine"
	"github.com/sluicemq/sluice/meta"
)

// carryTo has MQTT clients of this node served by the one that leads. It comes before the mesh is connected.
func (n *node) carryTo(l carry.Leader, m *link.Mesh) {
	n.carry = carry.New(carry.Options{Mesh: m, Engine: n.engine, Leader: l, Wait: n.o.election, Redirect: n.redirects(), Named: n.namedListener, Logger: n.o.logger})
}

// namedListener is one of `listeners.mqtt.named` as carry has to know it.
func (n *node) namedListener(name string) (carry.Named, bool) {
	rules := n.namedRules.Load()
	if rules == nil {
		return carry.Named{}, false
	}
	r, ok := (*rules)[name]
	return r, ok
}

// ruleNamed tells carry which named listeners there are, and by which rules: those that the node which serves a client goes by, and finds in its own
// configuration by the listener's name.
func (n *node) ruleNamed(list config.NamedListeners) {
	rules := make(map[string]carry.Named, len(list))
	for i := range list {
		l := &list[i]
		o := n.mqttListener("mqtt." + l.Name)
		if l.Unix() {
			o.Network = "unix"
		}
		sum := sha256.Sum256(fmt.Appendf(nil, "%t %q %q %q %q", l.Unix(), l.Anonymous, l.Auth, l.ClientAuth, l.Mountpoint))
		if l.Tenant != "" { // else it is as nodes know it that know no tenants
			sum = sha256.Sum256(fmt.Appendf(sum[:], " %q", l.Tenant))
		}
		rules[o.Name] = carry.Named{Rules: hex.EncodeToString(sum[:8]), Listener: o}
	}
	n.namedRules.Store(&rules)
}

// mqttDoors are where MQTT's clients reach this node who hear of it from another one, as kafkaEndpoints.
func mqttDoors(l *config.MQTTListeners, listening map[string]string, cluster string) meta.Doors {
	at := func(configured, kind string) string { return reached(configured, listening["mqtt."+kind], cluster) }
	return meta.Doors{Plain: at(l.Advertised, "tcp"), TLS: at(l.AdvertisedTLS, "tls"), WS: at(l.AdvertisedWS, "ws"), WSS: at(l.AdvertisedWSS, "wss")}
}

// doorOf is the one of a kind of listeners, empty if there is none.
func doorOf(n *meta.Node, listener string) string {
	if n == nil {
		return ""
	}
	switch listener {
	case "mqtt.tcp":
		return n.MQTT.Plain
	case "mqtt.tls":
		return n.MQTT.TLS
	case "mqtt.ws":
		return n.MQTT.WS
	case "mqtt.wss":
		return n.MQTT.WSS
	}
	return ""
}

// redirects says where the clients of a listener are sent that can be, nil: all are carried.
func (n *node) redirects() func(listener string, leader link.NodeID) string {
	cfg := n.o.clusterConfig
	if cfg == nil || cfg.MQTT.Redirect != "connect" {
		return nil
	}
	return func(listener string, leader link.NodeID) string {
		s := n.catalog.Load()
		return redirect(s.Node(meta.NodeID(cfg.Node.ID)), s.Node(meta.NodeID(leader)), listener)
	}
}

// elsewhere says where the clients of a listener go whom this node has served, when it hands the lead to another one; nil: they are told nothing.
func (n *node) elsewhere() func(listener string) string {
	to := n.redirects()
	if to == nil {
		return nil
	}
	return func(listener string) string {
		if next := n.member.control.Successor(); next != 0 {
			return to(listener, link.NodeID(next))
		}
		return ""
	}
}

// redirect is where a client of a listener of one node reaches another one by the same kind, empty if it cannot be sent there: where both name the same address,
// a load balancer's, the client might come back here, for ever.
func redirect(own, leader *meta.Node, listener string) string {
	if to := doorOf(leader, listener); to != doorOf(own, listener) {
		return to
	}
	return ""
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
