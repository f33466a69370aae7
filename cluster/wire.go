package cluster

import (
	"encoding/binary"
	"errors"

	"github.com/sluicemq/sluice/meta"
)

// Methods of requests between nodes, of the first set of shards.
const (
	methodHeartbeat = 0x0c01 // heartbeat -> grant
	methodMove      = 0x0c02 // {version, node u16} -> {}
	methodDrain     = 0x0c03 // {version, end u8} -> {}
	methodBalance   = 0x0c04 // BalanceOptions -> plan
)

// method is that of the set that the Controller is about.
func (c *Controller) method(m uint16) uint16 {
	if c.o.Set == 0 {
		return m
	}
	return 0xc000 | uint16(c.o.Set)<<4 | m&0xf
}

const wireVersion = 2

// aliveMax bounds the nodes in a grant.
const aliveMax = meta.NodesMax

var errWire = errors.New("cluster: a message that is none")

// heartbeat is what a node says of itself.
type heartbeat struct {
	resigned uint32
	draining bool // it does not want to lead
	leaving  bool // it is about to stop: nobody is to wait for it
	paused   bool // it leads in no epoch while it says so; from level 7 on
}

func (h *heartbeat) encode() []byte {
	b := []byte{wireVersion, 0}
	if h.draining {
		b[1] |= 1
	}
	if h.leaving {
		b[1] |= 2
	}
	if h.paused {
		b[1] |= 4
	}
	return binary.LittleEndian.AppendUint32(b, h.resigned)
}

func decodeHeartbeat(b []byte) (h heartbeat, err error) {
	if len(b) != 6 || b[0] != wireVersion || b[1] > 7 {
		return h, errWire
	}
	return heartbeat{paused: b[1]&4 != 0, draining: b[1]&1 != 0, leaving: b[1]&2 != 0, resigned: binary.LittleEndian.Uint32(b[2:])}, nil
}

// grant is the controller's answer.
type grant struct {
	yield meta.NodeID // not 0: whoever leads is to let go, so that this node leads
	epoch uint32      // whom the catalog names for it may lead in it, and in no other; 0: nobody is granted the lead
	alive []meta.NodeID
}

func (g *grant) encode() []byte {
	b := binary.LittleEndian.AppendUint32([]byte{wireVersion}, uint32(g.yield))
	b = binary.LittleEndian.AppendUint32(b, g.epoch)
	for _, id := range g.alive {
		b = binary.LittleEndian.AppendUint32(b, uint32(id))
	}
	return b
}

func decodeGrant(b []byte) (g grant, err error) {
	if len(b) < 9 || b[0] != wireVersion || (len(b)-9)%4 != 0 || (len(b)-9)/4 > aliveMax {
		return g, errWire
	}
	g.yield, g.epoch = meta.NodeID(binary.LittleEndian.Uint32(b[1:])), binary.LittleEndian.Uint32(b[5:])
	for b = b[9:]; len(b) > 0; b = b[4:] {
		g.alive = append(g.alive, meta.NodeID(binary.LittleEndian.Uint32(b)))
	}
	return g, nil
}

// encode is {version, flags u8 (1: the lead moves), leader u32, n u8, n × u32, n u8, n × u32}: who has the shards, and who shall.
func (p *Plan) encode() []byte {
	b := []byte{wireVersion, 0}
	if p.LeadMoves {
		b[1] = 1
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(p.Leader))
	for _, list := range [][]meta.NodeID{p.Have, p.Want} {
		b = append(b, byte(len(list)))
		for _, id := range list {
			b = binary.LittleEndian.AppendUint32(b, uint32(id))
		}
	}
	return b
}

func decodePlan(b []byte) (p Plan, err error) {
	if len(b) < 6 || b[0] != wireVersion || b[1] > 1 {
		return p, errWire
	}
	p.LeadMoves, p.Leader = b[1] == 1, meta.NodeID(binary.LittleEndian.Uint32(b[2:]))
	b = b[6:]
	for _, list := range []*[]meta.NodeID{&p.Have, &p.Want} {
		if len(b) == 0 || b[0] > meta.ReplicasMax || len(b) < 1+4*int(b[0]) {
			return Plan{}, errWire
		}
		n := int(b[0])
		for b = b[1:]; n > 0; n-- {
			*list = append(*list, meta.NodeID(binary.LittleEndian.Uint32(b)))
			b = b[4:]
		}
	}
	if len(b) > 0 {
		return Plan{}, errWire
	}
	return p, nil
}
