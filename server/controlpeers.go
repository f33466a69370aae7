package server

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/control"
	"github.com/sluicemq/sluice/meta"
)

// methodControl is a call of the control plane that another node has taken: JSON both ways, as control.Server.Forwarded has it.
const methodControl = 0xc701

// controlPeers takes calls of the control plane to other nodes, and answers theirs.
type controlPeers struct {
	mesh    *link.Mesh
	member  *member
	catalog *meta.Catalog
	server  atomic.Pointer[control.Server] // nil until it is there
}

var _ control.Peers = (*controlPeers)(nil)

// Leader makes it a control.Peers.
func (c *controlPeers) Leader() (meta.NodeID, bool) {
	node, here, known := c.member.Leader()
	return meta.NodeID(node), known && !here
}

// All makes it a control.Peers.
func (c *controlPeers) All() (list []meta.NodeID) {
	for _, n := range c.catalog.Load().Nodes() {
		if n.ID != c.member.own && n.State != meta.NodeRemoved {
			list = append(list, n.ID)
		}
	}
	slices.Sort(list)
	return list
}

// Ask makes it a control.Peers. A node that answers slowly is not waited for longer than askTimeout.
func (c *controlPeers) Ask(ctx context.Context, node meta.NodeID, call []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	m, err := c.mesh.Call(ctx, link.NodeID(node), methodControl, call)
	if err != nil {
		return nil, err
	}
	defer m.Release()
	return append([]byte(nil), m.Bytes()...), nil
}

// serve registers what this node does for others. Before the link has connections.
func (c *controlPeers) serve() { c.mesh.Serve(methodControl, c.serveCall) }

// askTimeout is how long another node may take to answer.
const askTimeout = 10 * time.Second

// callLeast bounds a call whose node has sent no time.
const callLeast = time.Minute

func (c *controlPeers) serveCall(r *link.Request) {
	s := c.server.Load()
	if s == nil {
		r.Fail("the node starts, and has no control plane yet")
		return
	}
	timeout, ok := r.Remaining()
	if !ok {
		timeout = callLeast
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	r.OnCancel(cancel)
	go func() {
		defer cancel()
		r.Reply(s.Forwarded(ctx, meta.NodeID(r.Peer), r.Body.Bytes()))
	}()
}
