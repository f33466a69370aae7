package clustergroup

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net"
	"sync/atomic"

	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/meta"
	"github.com/sluicemq/sluice/meta/raftgroup"
)

// clusterOf is a cluster's name as the link has it: the name is 16 bytes in base64, as a node makes it; of another one it is a part of its hash.
func clusterOf(name string) (id [16]byte) {
	if name == "" {
		return id
	}
	if b, err := base64.RawURLEncoding.DecodeString(name); err == nil && len(b) == len(id) {
		return [16]byte(b)
	}
	sum := sha256.Sum256([]byte(name))
	return [16]byte(sum[:])
}

// diskOf is what a data directory calls itself, as the link has it.
func diskOf(name string) (id [16]byte) {
	if b, err := hex.DecodeString(name); err == nil && len(b) == len(id) {
		return [16]byte(b)
	}
	sum := sha256.Sum256([]byte(name))
	return [16]byte(sum[:])
}

// door lets nodes in by the catalog, once there is one.
type door struct{ catalog atomic.Pointer[meta.Catalog] }

func (d *door) admit(p link.Peer) error {
	c := d.catalog.Load()
	if c == nil {
		return nil
	}
	return admit(c.Load(), &p)
}

// admit says why a node that is at the other end of a connection is not wanted, nil if it is. One that the catalog does not know is let in: it may have come
// behind what this node has of it, and what it opens is looked at again.
func admit(s *meta.Snapshot, p *link.Peer) error {
	if c := s.Cluster(); c != nil && p.Feature < c.Level {
		return &link.Error{Reason: link.ReasonFeature, Text: fmt.Sprintf("the cluster is at level %d, node %d can do %d", c.Level, p.ID, p.Feature)}
	}
	switch n := s.Node(meta.NodeID(p.ID)); {
	case n == nil:
		return nil
	case n.State == meta.NodeRemoved:
		return &link.Error{Reason: link.ReasonNotAdmitted, Text: fmt.Sprintf("node %d was removed from the cluster", p.ID)}
	case n.Disk != "" && diskOf(n.Disk) != p.Identity:
		return &link.Error{Reason: link.ReasonNode, Text: fmt.Sprintf("node %d has joined with another data directory; if that one is lost, sluice node replace lets it join anew", p.ID)}
	}
	return nil
}

// network is the link as the group wants it, with the group's names for what refuses a node.
type network struct{ *link.Network }

// refusals are the group's names for the link's.
var refusals = map[link.Reason]error{
	link.ReasonCluster: raftgroup.ErrOtherCluster, link.ReasonNode: raftgroup.ErrOtherNode, link.ReasonNodeInUse: raftgroup.ErrOtherNode, link.ReasonSelf: raftgroup.ErrOtherNode,
	link.ReasonNotAdmitted: raftgroup.ErrRemoved, link.ReasonFeature: raftgroup.ErrTooOld, link.ReasonVersion: raftgroup.ErrTooOld,
	link.ReasonToken: raftgroup.ErrStranger, link.ReasonPlaintext: raftgroup.ErrStranger,
}

// Open opens a stream to the node at an address.
func (n network) Open(ctx context.Context, address string) (net.Conn, error) {
	c, err := n.Network.Open(ctx, address)
	if known := refusals[link.ReasonOf(err)]; known != nil {
		err = fmt.Errorf("%w: %w", known, err)
	}
	return c, err
}
