package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// Clustered tells whether the node is one of a cluster.
func (c *Config) Clustered() bool { return !c.Listeners.Cluster.Off() }

// ClusterTLS tells whether nodes speak TLS.
func (c *Config) ClusterTLS() bool { return c.Cluster.Cert != "" }

// unspecified tells whether an address stands for all of a machine's.
func unspecified(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return true
	}
	a, err := netip.ParseAddr(host)
	return host == "" || err == nil && a.IsUnspecified()
}

// rackMax is meta.NodeRackMax.
const rackMax = 255

// catchupLeast is the least cluster.catchup_rate: below it a piece of a copy would be waited for too long.
const catchupLeast = 64 * KiB

// validateCluster looks at what makes a node one of a cluster.
func (l *loader) validateCluster(c *Config) {
	files := []struct{ key, value string }{{"cluster.cert", c.Cluster.Cert}, {"cluster.key", c.Cluster.Key}, {"cluster.ca", c.Cluster.CA}}
	if n := len(c.Node.Rack); n > rackMax {
		l.reject("node.rack", fmt.Errorf("the name of a rack has at most %d bytes, found %d", rackMax, n))
	}
	if r := c.Cluster.CatchupRate; r > 0 && r < catchupLeast {
		l.reject("cluster.catchup_rate", fmt.Errorf("want 0 or at least %v, found %v", catchupLeast, r))
	}
	if !c.Clustered() {
		if len(c.Cluster.Peers) > 0 {
			l.reject("cluster.peers", errors.New("needs listeners.cluster, where the other nodes reach this one"))
		}
		if c.Cluster.Advertised != "" {
			l.reject("cluster.advertised", errors.New("needs listeners.cluster"))
		}
		if c.Cluster.Token.IsSet() {
			l.reject("cluster.token", errors.New("needs listeners.cluster"))
		}
		for _, f := range files {
			if f.value != "" {
				l.reject(f.key, errors.New("needs listeners.cluster"))
			}
		}
		if len(c.Cluster.CRL) > 0 {
			l.reject("cluster.crl", errors.New("needs listeners.cluster"))
		}
		return
	}
	if len(c.Listeners.Cluster) > 1 {
		l.reject("listeners.cluster", fmt.Errorf("want one address, found %d", len(c.Listeners.Cluster)))
	}
	if c.Journal.Durability == "memory" {
		l.reject("listeners.cluster", errors.New("journal.durability is memory: a node that forgets what it has promised cannot be one of a cluster"))
	}
	if len(c.Cluster.CRL) > 0 && c.Cluster.CA == "" {
		l.reject("cluster.crl", errors.New("needs cluster.ca, whose certificates it revokes"))
	}
	l.validateClusterAddresses(c)
	for _, f := range files {
		if (f.value != "") != c.ClusterTLS() {
			l.reject(f.key, errors.New("cluster.cert, cluster.key and cluster.ca go together: want all three or none"))
			return
		}
	}
}

// validateClusterAddresses looks at where nodes reach each other.
func (l *loader) validateClusterAddresses(c *Config) {
	listen := c.Listeners.Cluster[0]
	if err := checkAddress(listen); err != nil {
		l.reject("listeners.cluster", err)
		return
	}
	seen := map[string]string{}
	for _, a := range c.addresses() {
		seen[a.addr] = a.key
	}
	if other, dup := seen[listen]; dup {
		l.reject("listeners.cluster", fmt.Errorf("%s is the address of %s already", listen, other))
	}
	if c.Cluster.Advertised == "" && unspecified(listen) {
		l.reject("cluster.advertised", fmt.Errorf("listeners.cluster is %s, which stands for all addresses of the machine: say at which one the other nodes reach this one", listen))
	}
	reached := append([]string{listen}, c.Cluster.Peers...)
	keys := []string{"listeners.cluster"}
	for _, p := range c.Cluster.Peers {
		keys = append(keys, "cluster.peers")
		if err := checkAddress(p); err != nil {
			l.reject("cluster.peers", err)
		} else if unspecified(p) {
			l.reject("cluster.peers", fmt.Errorf("%s stands for all addresses of a machine", p))
		}
	}
	if a := c.Cluster.Advertised; a != "" {
		reached, keys = append(reached, a), append(keys, "cluster.advertised")
		if err := checkAddress(a); err != nil {
			l.reject("cluster.advertised", err)
		} else if unspecified(a) {
			l.reject("cluster.advertised", fmt.Errorf("%s stands for all addresses of a machine: want the one at which other nodes reach this one", a))
		}
	}
	if c.ClusterTLS() || c.Cluster.Plaintext && c.Cluster.Token.IsSet() {
		return
	}
	for i, a := range reached {
		if !Loopback(a) && c.Cluster.Plaintext {
			l.reject("cluster.token", fmt.Errorf("%s is reached over a network, and nodes without TLS know each other by this secret alone: set it to file:PATH or env:NAME", a))
			return
		}
		if !Loopback(a) {
			l.reject(keys[i], fmt.Errorf("%s is reached over a network, and nodes would speak without TLS: set cluster.cert, cluster.key and cluster.ca, or cluster.plaintext to true to allow that by name", a))
			return
		}
	}
}
