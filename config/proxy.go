package config

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Proxies reads a list of addresses and networks, such as `listeners.mqtt.proxy_trusted`.
func Proxies(list []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, text := range list {
		p, err := netip.ParsePrefix(text)
		if !strings.Contains(text, "/") {
			var a netip.Addr
			if a, err = netip.ParseAddr(text); err == nil {
				p = netip.PrefixFrom(a.WithZone(""), a.BitLen())
			}
		}
		if err != nil {
			return nil, fmt.Errorf("want addresses such as 10.0.0.7 or 10.0.0.0/24, found %q", text)
		}
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

// validateProxies looks at the listeners that want a header of the PROXY protocol, and at whom they take it from.
func (l *loader) validateProxies(c *Config) {
	for _, d := range []struct {
		key           string
		from, trusted []string
	}{
		{"listeners.mqtt", c.Listeners.MQTT.ProxyProtocol, c.Listeners.MQTT.ProxyTrusted},
		{"listeners.kafka", c.Listeners.Kafka.ProxyProtocol, c.Listeners.Kafka.ProxyTrusted},
	} {
		off := slices.Contains(d.from, "off")
		if off && len(d.from) > 1 {
			l.reject(d.key+".proxy_protocol", errors.New("want off or names of listeners, found both"))
		}
		unix := len(d.from) == 1 && d.from[0] == "unix"
		if len(d.from) > 0 && !off && !unix && len(d.trusted) == 0 {
			l.reject(d.key+".proxy_protocol", fmt.Errorf("needs %s.proxy_trusted: who may say where a client comes from", d.key))
		}
		if _, err := Proxies(d.trusted); err != nil {
			l.reject(d.key+".proxy_trusted", err)
		}
	}
}
