// Package clustergroup makes the catalog's group of a node out of its configuration: certificates, the listener between nodes, raftgroup. It is a
// package of its own so that server, and what is tested with it, is not linked with Dragonboat. cmd/sluice hands it to server.
package clustergroup

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/meta"
	"github.com/sluicemq/sluice/meta/raftgroup"
	"github.com/sluicemq/sluice/server"
)

// New makes the catalog's group of a node of a cluster: server.Options.Cluster.
func New(o server.ClusterOptions) (server.ClusterGroup, error) {
	c := o.Config
	serverTLS, clientTLS, err := clusterTLS(&c.Cluster)
	if err != nil {
		return nil, err
	}
	network, err := raftgroup.ListenTCP(raftgroup.TCPOptions{Listen: c.Listeners.Cluster[0], Server: serverTLS, Client: clientTLS})
	if err != nil {
		return nil, err
	}
	g := raftgroup.Options{Dir: o.Dir, Node: meta.NodeID(c.Node.ID), Cluster: o.Cluster, Address: advertised(c, network.Addr()), Shards: uint32(c.Cluster.Shards),
		Network: network, Logger: o.Logger, Join: c.Cluster.Peers}
	if len(c.Cluster.Peers) == 0 {
		g.Form = &raftgroup.Form{Entries: o.Entries}
	}
	return raftgroup.New(g), nil
}

// advertised is where the other nodes reach this one: what is configured, or what it listens on.
func advertised(c *config.Config, listening net.Addr) string {
	if c.Cluster.Advertised != "" {
		return c.Cluster.Advertised
	}
	host, _, _ := net.SplitHostPort(c.Listeners.Cluster[0]) // it was checked
	_, port, _ := net.SplitHostPort(listening.String())
	return net.JoinHostPort(host, port)
}

// clusterTLS reads the certificate of the node and the authorities of the others'; nil without.
func clusterTLS(c *config.Cluster) (serverSide, clientSide *tls.Config, err error) {
	if c.Cert == "" {
		return nil, nil, nil
	}
	pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
	if err != nil {
		return nil, nil, fmt.Errorf("cluster.cert %s with cluster.key %s: %w", c.Cert, c.Key, err)
	}
	pem, err := os.ReadFile(c.CA)
	if err != nil {
		return nil, nil, fmt.Errorf("cluster.ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, nil, errors.New("cluster.ca: " + c.CA + " holds no certificate")
	}
	serverSide = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	clientSide = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, RootCAs: pool}
	return serverSide, clientSide, nil
}
