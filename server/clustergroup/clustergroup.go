// Package clustergroup makes what a node needs to be one of a cluster out of its configuration: the link to the other nodes, with its certificates,
// and over it the catalog's group, raftgroup. It is a package of its own so that server, and what is tested with it, is not linked with
// Dragonboat. cmd/sluice hands it to server.
package clustergroup

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/sluicemq/sluice/cluster/cert"
	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/meta"
	"github.com/sluicemq/sluice/meta/raftgroup"
	"github.com/sluicemq/sluice/server"
)

// group is the catalog's group together with the link that it runs over. It is a server.ClusterGroup.
type group struct {
	*raftgroup.Group
	mesh     *link.Mesh
	door     *door
	listener net.Listener // until the mesh has it
	cancel   func()       // the subscription to the catalog

	mu struct {
		sync.Mutex
		closed bool
		sweep  *time.Timer
	}
}

// farewell is how long a node that was removed stays connected: where two are left, it has to agree to its own going.
const farewell = 10 * time.Second

// New makes the link and the group of a node of a cluster: server.Options.Cluster. Neither does anything before Start, but the address is taken.
func New(o server.ClusterOptions) (server.ClusterGroup, error) {
	c := o.Config
	roles, err := meta.ParseRoles(c.Node.Roles)
	if err != nil {
		return nil, fmt.Errorf("node.roles: %w", err)
	}
	id, err := raftgroup.Identify(o.Dir, meta.NodeID(c.Node.ID))
	if err != nil {
		return nil, err
	}
	if id.Cluster == "" {
		id.Cluster = o.Cluster
	}
	g := &group{door: &door{}}
	if g.mesh, err = newMesh(&o, id, g.door); err != nil {
		return nil, err
	}
	network := network{g.mesh.Network(link.KindRaft)}
	if o.Register != nil {
		o.Register(g.mesh)
	}
	if g.listener, err = net.Listen("tcp", c.Listeners.Cluster[0]); err != nil {
		g.mesh.Close()
		return nil, fmt.Errorf("open listeners.cluster on %s: %w", c.Listeners.Cluster[0], err)
	}
	ro := raftgroup.Options{Dir: o.Dir, Node: meta.NodeID(c.Node.ID), Cluster: o.Cluster, Address: advertised(c, g.listener.Addr()), Shards: uint32(c.Cluster.Shards),
		Roles: roles, Rack: c.Node.Rack, Network: network, Logger: o.Logger, Join: c.Cluster.Peers}
	if len(c.Cluster.Peers) == 0 {
		ro.Form = &raftgroup.Form{Entries: o.Entries}
	}
	g.Group = raftgroup.New(ro)
	return g, nil
}

// noToken is the token of a cluster without one: on loopback, where whoever can connect can read the files too, and with TLS, where
// certificates say who is a node.
const noToken = "no cluster.token"

func newMesh(o *server.ClusterOptions, id raftgroup.Identity, d *door) (*link.Mesh, error) {
	c := o.Config
	lo := link.Options{ID: link.NodeID(c.Node.ID), Cluster: clusterOf(id.Cluster), Identity: diskOf(id.Disk), Feature: meta.Level, Token: []byte(noToken),
		AllowPlaintext: c.Cluster.Plaintext, Admit: d.admit, Logger: o.Logger}
	if c.Cluster.Token.IsSet() {
		lo.Token = []byte(c.Cluster.Token.Reveal())
	}
	if c.ClusterTLS() {
		var err error
		if lo.TLS, err = cert.NewSource(cert.Files{Cert: c.Cluster.Cert, Key: c.Cluster.Key, CA: c.Cluster.CA, CRL: c.Cluster.CRL}, time.Now()); err != nil {
			return nil, fmt.Errorf("cluster.cert, cluster.key, cluster.ca and cluster.crl: %w", err)
		}
	}
	return link.New(lo)
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

// Start lets the other nodes in, and starts the group.
func (g *group) Start(ctx context.Context, c *meta.Catalog) error {
	g.door.catalog.Store(c)
	g.cancel = c.Subscribe(func(old, now *meta.Snapshot) {
		if meta.NodesChanged(old, now) {
			g.follow(c)
		}
	})
	l := g.listener
	if err := g.mesh.Serving(l); err != nil {
		return err
	}
	g.listener = nil
	if err := g.Group.Start(ctx, c); err != nil {
		return err
	}
	g.mesh.SetCluster(clusterOf(g.Cluster()))
	g.follow(c)
	return nil
}

// follow has the link keep a connection to each node of the catalog, and soon none to who would not be let in any more.
func (g *group) follow(c *meta.Catalog) {
	g.mu.Lock()
	defer g.mu.Unlock()
	peers := make(map[link.NodeID]string)
	for id, address := range g.Addresses() {
		if meta.CheckNodeAddress(address) == nil {
			peers[link.NodeID(id)] = address
		}
	}
	_ = g.mesh.SetPeers(peers) // fails for an address that is none, or at the end
	if g.mu.sweep != nil {
		g.mu.sweep.Stop()
	}
	if !g.mu.closed {
		g.mu.sweep = time.AfterFunc(farewell, func() { g.sweep(c) })
	}
}

// sweep ends the connections to nodes that would not be let in any more.
func (g *group) sweep(c *meta.Catalog) {
	for _, p := range g.mesh.Connected() {
		if err := admit(c.Load(), &p); err != nil {
			g.mesh.Disconnect(p.ID, err.Error())
		}
	}
}

// Mesh is the link to the other nodes.
func (g *group) Mesh() *link.Mesh { return g.mesh }

// Reload reads the certificates between nodes again. On error those that count stay.
func (g *group) Reload() error { return g.mesh.ReloadCertificates() }

// Close ends the group and the link.
func (g *group) Close() error {
	if g.cancel != nil {
		g.cancel()
		g.cancel = nil
	}
	g.mu.Lock()
	g.mu.closed = true
	if g.mu.sweep != nil {
		g.mu.sweep.Stop()
	}
	g.mu.Unlock()
	err := g.Group.Close()
	if g.listener != nil {
		err = errors.Join(err, g.listener.Close())
		g.listener = nil
	}
	g.mesh.Close()
	return err
}
