package server

import (
	"net/netip"
	"sync/atomic"

	"github.com/sluicemq/sluice/config"
)

// proxyList holds the addresses of the proxies that listeners trust, as they are now.
type proxyList struct {
	now atomic.Pointer[[]netip.Prefix]
}

// trusts is asked for each connection to a listener for proxies.
func (p *proxyList) trusts(a netip.Addr) bool {
	list := p.now.Load()
	if list == nil {
		return false
	}
	a = a.WithZone("")
	for _, n := range *list {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

// proxies are those of both protocols.
type proxies struct{ mqtt, kafka proxyList }

// take puts the configuration's in force, for connections that come from now on.
func (p *proxies) take(cfg *config.Config) {
	set := func(l *proxyList, list []string) {
		if n, err := config.Proxies(list); err == nil { // the configuration has been checked
			l.now.Store(&n)
		}
	}
	set(&p.mqtt, cfg.Listeners.MQTT.ProxyTrusted)
	set(&p.kafka, cfg.Listeners.Kafka.ProxyTrusted)
}
