package raftgroup

import (
	"fmt"
	"testing"

	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/meta"
)

// The group over the nodes' one link, as a node runs it: joining, changes of every node, and a node that is cut off and comes back.
func TestOverLink(t *testing.T) {
	meshes := make(map[meta.NodeID]*link.Mesh)
	ns := three(t, func(o *Options) {
		_ = o.Network.(*cutNet).Close()
		m, err := link.New(link.Options{ID: link.NodeID(o.Node), Token: []byte("the token of the test")})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(m.Close)
		o.Network = m.Network(link.KindRaft)
		if _, err := m.Listen(o.Address); err != nil {
			t.Fatal(err)
		}
		meshes[o.Node] = m
	})
	all := func(name string) {
		t.Helper()
		for _, n := range ns.list {
			n.sees(t, name)
		}
	}
	for id, n := range ns.list {
		name := fmt.Sprint("of ", id)
		n.mustSet(t, user(name))
		all(name)
	}
	if n := len(meshes[1].Connected()); n != 2 {
		t.Errorf("node 1 has %d connections", n)
	}
	for _, other := range []link.NodeID{1, 2} {
		meshes[3].Disconnect(other, "cut")
	}
	ns.list[3].mustSet(t, user("after the cut"))
	all("after the cut")
}
