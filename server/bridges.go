package server

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/sluicemq/sluice/bridge"
	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/engine"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// CheckBridge says what is wrong with a bridge of the configuration.
func CheckBridge(b *config.Bridge) error {
	_, err := bridge.New(bridgeOptions(b))
	return err
}

// bridgeOptions are what the configuration says of a bridge.
func bridgeOptions(b *config.Bridge) bridge.Options {
	o := bridge.Options{Name: b.Name, Addresses: b.Addresses, Version: wire.V5, ClientID: b.ClientID, User: b.User, Password: b.Password.Reveal(),
		KeepAlive: b.KeepAlive, TLS: func() (*tls.Config, error) { return bridgeTLS(b) }}
	if b.Version == "3.1.1" {
		o.Version = wire.V311
	}
	for _, t := range b.Topics {
		o.Topics = append(o.Topics, bridge.Topic{Filter: t.Filter, Direction: bridge.Direction(t.Direction), QoS: byte(t.QoS), LocalPrefix: t.LocalPrefix, RemotePrefix: t.RemotePrefix})
	}
	return o
}

// bridgeTLS reads the files anew for each connection, so that new ones count.
func bridgeTLS(b *config.Bridge) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: b.Insecure} //nolint:gosec // by name
	if b.CA != "" {
		pem, err := os.ReadFile(b.CA)
		if err != nil {
			return nil, fmt.Errorf("read the authorities: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s: no certificate in PEM form in it", b.CA)
		}
	}
	if b.Cert != "" {
		pair, err := tls.LoadX509KeyPair(b.Cert, b.Key)
		if err != nil {
			return nil, fmt.Errorf("read the client certificate: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

// bridges are those that run.
type bridges struct {
	s     *Server
	inlet *engine.Inlet

	mu struct {
		sync.Mutex
		running []runningBridge
		closed  bool
	}
}

type runningBridge struct {
	of config.Bridge
	*bridge.Bridge
}

// startBridges makes the door for them, and starts those of the configuration.
func (s *Server) startBridges(list config.Bridges) error {
	o := s.node.mqttListener(bridgeListener)
	o.Network, o.Handler = "unix", s.node.mqtt
	s.bridges = &bridges{s: s, inlet: s.node.engine.Inlet(o)}
	return s.bridges.configure(list)
}

// checkBridges says what is wrong with a list.
func checkBridges(list config.Bridges) error {
	for i := range list {
		if err := CheckBridge(&list[i]); err != nil {
			return fmt.Errorf("bridge %s: %w", list[i].Name, err)
		}
	}
	return nil
}

// configure ends the bridges that are not in the list as they are, and starts those that are new. With an error nothing has changed.
func (b *bridges) configure(list config.Bridges) error {
	if err := checkBridges(list); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mu.closed {
		return nil
	}
	stays := func(r runningBridge) bool {
		return slices.ContainsFunc(list, func(c config.Bridge) bool { return reflect.DeepEqual(c, r.of) })
	}
	var kept, gone []runningBridge
	for _, r := range b.mu.running {
		if stays(r) {
			kept = append(kept, r)
		} else {
			gone = append(gone, r)
		}
	}
	closeBridges(gone)
	b.mu.running = kept
	for i := range list {
		if slices.ContainsFunc(kept, func(r runningBridge) bool { return r.of.Name == list[i].Name }) {
			continue
		}
		next, err := b.start(list[i])
		if err != nil {
			return err // it was checked
		}
		b.mu.running = append(b.mu.running, runningBridge{list[i], next})
	}
	for _, r := range gone {
		if !slices.ContainsFunc(list, func(c config.Bridge) bool { return c.Name == r.of.Name }) {
			b.s.log.Warn("a bridge is gone; its session stays and keeps on queueing until it is deleted", "bridge", r.of.Name, "session", r.SessionID())
		}
	}
	return nil
}

func (b *bridges) start(of config.Bridge) (*bridge.Bridge, error) {
	o := bridgeOptions(&of)
	o.Node, o.Logger = bridgeNode{b}, b.s.log
	o.Changed = func(up bool) { b.tell(of.Name, up) }
	next, err := bridge.New(o)
	if err != nil {
		return nil, err
	}
	b.tell(of.Name, false)
	next.Start()
	return next, nil
}

// tell publishes what Mosquitto does of its bridges.
func (b *bridges) tell(name string, up bool) {
	state := "0"
	if up {
		state = "1"
	}
	l := b.s.node.broker.Local(0)
	l.Run(func() {
		l.PublishRetained(&broker.Message{Topic: []byte("$SYS/broker/connection/" + name + "/state"), Payload: []byte(state), Timestamp: time.Now().UnixMilli()})
	})
}

// close ends them all, and waits for it.
func (b *bridges) close() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.closed = true
	closeBridges(b.mu.running)
	b.mu.running = nil
}

// closeBridges ends them side by side: each may wait for its broker.
func closeBridges(list []runningBridge) {
	var all sync.WaitGroup
	for _, r := range list {
		all.Go(r.Close)
	}
	all.Wait()
}

// each calls fn with every bridge that runs.
func (b *bridges) each(fn func(*bridge.Bridge)) {
	b.mu.Lock()
	running := slices.Clone(b.mu.running)
	b.mu.Unlock()
	for _, r := range running {
		fn(r.Bridge)
	}
}

// bridgeNode is the node as its bridges see it.
type bridgeNode struct{ b *bridges }

var _ bridge.Node = bridgeNode{}

// errElsewhere says that the sessions are another node's now.
var errElsewhere = errors.New("another node leads")

// Leads tells whether the sessions are served here.
func (n bridgeNode) Leads() bool { return n.b.s.node.member.leads() }

// Dial opens a connection.
func (n bridgeNode) Dial() (net.Conn, error) {
	if !n.Leads() {
		return nil, errElsewhere
	}
	return bridge.Open(n.b.inlet)
}

// Session looks a session up.
func (n bridgeNode) Session(id string) ([]uint16, bool) { return n.b.s.node.broker.Unreleased(0, id) }

// Subscribed looks for a filter.
func (n bridgeNode) Subscribed(id, filter string) bool {
	return slices.ContainsFunc(n.b.s.node.broker.SessionSubscriptions(0, id), func(s broker.SubscriptionInfo) bool { return s.Filter == filter })
}

// Queued counts what waits in one.
func (n bridgeNode) Queued(id string) int64 {
	info, _ := n.b.s.node.broker.Session(0, id)
	return info.Queued
}

// Takes are the limits of the MQTT door.
func (n bridgeNode) Takes() (uint16, uint32) {
	cfg := n.b.s.cfg.Load()
	return uint16(cfg.MQTT.ReceiveMaximum), uint32(cfg.Limits.PacketSize)
}

// bridgeMetricHelp is metricHelp of the bridges.
var bridgeMetricHelp = map[string]string{
	"sluice_bridge_connected":      "1 while a bridge is connected to both sides, else 0.|bridge",
	"sluice_bridge_connects_total": "Times that a bridge has connected.|bridge",
	"sluice_bridge_messages_total": "Messages that a bridge has handed over; one that was handed over again counts again.|bridge,direction",
	"sluice_bridge_refused_total":  "Messages that the side which they went to did not take, or that had no place there by their topic or size.|bridge,direction",
	"sluice_bridge_queued":         "Messages that wait in a bridge's session to go out.|bridge",
}

// collectBridges tells of the bridges.
func (c *collector) collectBridges(k sink) {
	if c.s.bridges == nil {
		return
	}
	c.s.bridges.each(func(b *bridge.Bridge) {
		st, up := b.Stats(), 0.0
		if st.Connected {
			up = 1
		}
		k.gauge("sluice_bridge_connected", up, b.Name())
		k.counter("sluice_bridge_connects_total", st.Connects, b.Name())
		k.counter("sluice_bridge_messages_total", st.Out, b.Name(), "out")
		k.counter("sluice_bridge_messages_total", st.In, b.Name(), "in")
		k.counter("sluice_bridge_refused_total", st.RefusedOut, b.Name(), "out")
		k.counter("sluice_bridge_refused_total", st.RefusedIn, b.Name(), "in")
		k.gauge("sluice_bridge_queued", float64(st.Queued), b.Name())
	})
}
