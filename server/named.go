package server

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/sluicemq/sluice/config"
)

// namedDoor is one of `listeners.mqtt.named`, open.
type namedDoor struct {
	settings atomic.Pointer[config.NamedListener] // as they are now
	common   func() *config.MQTTListeners         // what counts where it has no bound of its own
	address  string                               // that it got
}

func (d *namedDoor) connections() int {
	if n := d.settings.Load().Connections; n >= 0 {
		return n
	}
	return d.common().Connections
}

func (d *namedDoor) acceptRate() int {
	if n := d.settings.Load().AcceptRate; n >= 0 {
		return n
	}
	return d.common().AcceptRate
}

// namedDoors opens and closes listeners while the node runs.
type namedDoors struct {
	mu   sync.Mutex
	open map[string]*namedDoor // by their names in the list
	shut bool                  // the node drains: nothing is opened any more
}

// sameSocket says whether what is open can go on as it is, with other bounds.
func sameSocket(a, b *config.NamedListener) bool {
	return a.Protocol == b.Protocol && a.Address == b.Address && a.ProxyProtocol == b.ProxyProtocol
}

// configureNamed closes the listeners that are not in the list as they are, whose connections stay, and opens those that are new. What cannot be opened is
// in the errors, and tried again with the next list; everything else is in force.
func (s *Server) configureNamed(list config.NamedListeners) (errs []error) {
	d := &s.named
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.shut {
		return nil
	}
	if d.open == nil {
		d.open = make(map[string]*namedDoor)
	}
	s.node.ruleNamed(list)
	wanted := make(map[string]*config.NamedListener, len(list))
	for i := range list {
		n := list[i]
		wanted[n.Name] = &n
	}
	for name, have := range d.open {
		if w := wanted[name]; w == nil || !sameSocket(w, have.settings.Load()) {
			s.node.engine.CloseListener("mqtt." + name)
			s.log.Info("listener closed; its connections stay", "listener", "mqtt."+name)
			delete(d.open, name)
		}
	}
	for i := range list { // in their order, for logs
		w := wanted[list[i].Name]
		if have := d.open[w.Name]; have != nil {
			have.settings.Store(w)
			continue
		}
		if err := s.openNamed(w); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

func (s *Server) openNamed(n *config.NamedListener) error {
	own := &namedDoor{common: func() *config.MQTTListeners { return &s.cfg.Load().Listeners.MQTT }}
	own.settings.Store(n)
	network := "tcp"
	if n.Unix() {
		network = "unix"
	}
	d := door{name: "mqtt." + n.Name, network: network, address: n.Address, tls: n.TLS(), ws: n.WebSocket(), own: own, proxied: n.ProxyProtocol}
	if d.tls {
		d.certs = s.certs.ownConfig(d.ws, func() string { return own.settings.Load().ClientAuth })
	}
	addr, err := s.node.listen(d)
	if err != nil {
		return err
	}
	own.address = addr.String()
	s.log.Info("listener opened", "listener", "mqtt."+n.Name, "address", own.address)
	s.named.open[n.Name] = own
	return nil
}

// reloadNamed is configureNamed as a reload reports it.
func (s *Server) reloadNamed(list config.NamedListeners) (report []string) {
	for _, err := range s.configureNamed(list) {
		report = append(report, fmt.Sprintf("listeners.mqtt.named: %v (tried again at the next reload)", err))
	}
	return report
}

// tell adds the addresses of those that are open.
func (d *namedDoors) tell(at map[string]string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, o := range d.open {
		at["mqtt."+name] = o.address
	}
}

// close keeps a reload from opening anything.
func (d *namedDoors) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shut = true
}
