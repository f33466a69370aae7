package cluster

import (
	"time"

	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/meta"
)

// Peers carries requests between nodes.
type Peers interface {
	// Ask sends a request. answered is called once, from any goroutine, with an answer that is its own for the call, or with an error; it must not block.
	Ask(to meta.NodeID, method uint16, body []byte, wait time.Duration, answered func(answer []byte, err error))
	// Serve says who answers a method, before anybody is connected. serve must not block; the body is its own for the call, and the answer may come later,
	// once, from any goroutine: a body, or a refusal in words.
	Serve(method uint16, serve func(from meta.NodeID, body []byte, answer func(body []byte, refusal string)))
}

// OverMesh are the peers that a mesh reaches.
func OverMesh(m *link.Mesh) Peers { return overMesh{m} }

type overMesh struct{ mesh *link.Mesh }

// Ask makes it Peers.
func (o overMesh) Ask(to meta.NodeID, method uint16, body []byte, wait time.Duration, answered func([]byte, error)) {
	_, err := o.mesh.Go(link.NodeID(to), method, body, wait, func(m link.Message, err error) {
		defer m.Release()
		answered(m.Bytes(), err)
	})
	if err != nil {
		answered(nil, err)
	}
}

// Serve makes it Peers.
func (o overMesh) Serve(method uint16, serve func(meta.NodeID, []byte, func([]byte, string))) {
	o.mesh.Serve(method, func(r *link.Request) {
		serve(meta.NodeID(r.Peer), r.Body.Bytes(), func(body []byte, refusal string) {
			if refusal != "" {
				r.Fail(refusal)
				return
			}
			r.Reply(body)
		})
	})
}
