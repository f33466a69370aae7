package meta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// NodeID is a node's number, `node.id` of its configuration. 0: none.
type NodeID uint32

// Bounds of nodes.
const (
	NodeIDMax      = 1<<16 - 1
	ReplicaMax     = 1<<16 - 1
	NodeAddressMax = 255
	NodeRackMax    = 255
	// NodesMax bounds the nodes, those that were removed among them: their numbers are not given again.
	NodesMax = 1024
)

// NodeState says where a node is in its life. The numbers are on disk.
type NodeState uint8

// The states of a node.
const (
	NodeJoining NodeState = 1 // added, and not yet one that votes on the catalog
	NodeActive  NodeState = 2
	NodeRemoved NodeState = 3 // its number stays used
)

// String is the state in a word.
func (s NodeState) String() string {
	switch s {
	case NodeJoining:
		return "joining"
	case NodeActive:
		return "active"
	case NodeRemoved:
		return "removed"
	}
	return "unknown"
}

// Roles are the services that a node runs, as bits. They are on disk.
type Roles uint8

// The roles of a node.
const (
	RoleBroker  Roles = 1
	RoleJournal Roles = 2
	RoleMeta    Roles = 4

	RolesAll = RoleBroker | RoleJournal | RoleMeta
)

var roleNames = [...]struct {
	role Roles
	name string
}{{RoleBroker, "broker"}, {RoleJournal, "journal"}, {RoleMeta, "meta"}}

// Names are the roles' names, as node.roles has them.
func (r Roles) Names() (names []string) {
	for _, e := range roleNames {
		if r&e.role != 0 {
			names = append(names, e.name)
		}
	}
	return names
}

// ParseRoles reads names of roles; none stand for all. Every node votes on the catalog: without meta it is an error.
func ParseRoles(names []string) (Roles, error) {
	if len(names) == 0 {
		return RolesAll, nil
	}
	var roles Roles
	for _, name := range names {
		before := roles
		for _, e := range roleNames {
			if e.name == strings.TrimSpace(name) {
				roles |= e.role
			}
		}
		if roles == before {
			return 0, fmt.Errorf("want the roles broker, journal and meta, each once at most, found %q", name)
		}
	}
	if roles&RoleMeta == 0 {
		return 0, errors.New("every node votes on the catalog in this version: the role meta is missing")
	}
	return roles, nil
}

// Node is one node of the cluster.
type Node struct {
	ID    NodeID
	State NodeState
	Roles Roles
	// Replica counts the copies of the catalog that the node has had: one that lost its disk comes back under the next number, and never
	// meets what its old one had promised.
	Replica uint32
	Level   uint32 // the highest feature level of its program
	Disk    string // what its data directory calls itself; empty until it has joined
	Address string // HOST:PORT at which the other nodes reach it
	Rack    string
	Kafka   Endpoints // where Kafka's clients reach it
	MQTT    Doors     // where MQTT's do
}

// Doors are where clients of MQTT reach a node, by kinds of listeners, as Endpoints.
type Doors struct{ Plain, TLS, WS, WSS string }

// Endpoints are where clients of one protocol reach a node, by kinds of listeners: HOST:PORT each, empty if it has none of the kind.
type Endpoints struct{ Plain, TLS string }

// nodeKafka is the version of a node's entry from which on it has Endpoints. Without any it is written as version 1.
const nodeKafka = 2

// nodeMQTT is the version from which on it has Doors as well.
const nodeMQTT = 3

// diskMax bounds what a data directory calls itself.
const diskMax = 64

// CheckNodeAddress says why others cannot reach a node at an address. An address that stands for all of a machine's is refused: every node
// would look for the others on itself.
func CheckNodeAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	switch {
	case len(address) > NodeAddressMax:
		return fmt.Errorf("a node's address has at most %d bytes, found %d", NodeAddressMax, len(address))
	case err != nil:
		return fmt.Errorf("want a node's address as HOST:PORT, found %q", address)
	case host == "" || strings.ContainsAny(host, " /\x00"):
		return fmt.Errorf("want a host's name or address in a node's address, found %q", address)
	}
	if a, err := netip.ParseAddr(host); err == nil && a.IsUnspecified() {
		return fmt.Errorf("%s stands for all addresses of a machine: want the one at which other nodes reach this one", address)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("want a port from 1 to 65535 in a node's address, found %q", address)
	}
	return nil
}

// check says what is wrong with a node's entry.
func (n *Node) check() error {
	switch {
	case n.ID == 0 || n.ID > NodeIDMax:
		return fmt.Errorf("want a node's number from 1 to %d, found %d", NodeIDMax, n.ID)
	case n.State < NodeJoining || n.State > NodeRemoved:
		return fmt.Errorf("node %d has the unknown state %d", n.ID, n.State)
	case n.Roles == 0 || n.Roles&^RolesAll != 0:
		return fmt.Errorf("node %d has the unknown roles %#x", n.ID, uint8(n.Roles))
	case n.Replica == 0 || n.Replica > ReplicaMax:
		return fmt.Errorf("node %d has copy %d of the catalog: want 1 to %d", n.ID, n.Replica, ReplicaMax)
	case len(n.Disk) > diskMax:
		return fmt.Errorf("node %d: the name of a disk has at most %d bytes, found %d", n.ID, diskMax, len(n.Disk))
	case len(n.Rack) > NodeRackMax:
		return fmt.Errorf("node %d: the name of a rack has at most %d bytes, found %d", n.ID, NodeRackMax, len(n.Rack))
	}
	for _, a := range []string{n.Kafka.Plain, n.Kafka.TLS, n.MQTT.Plain, n.MQTT.TLS, n.MQTT.WS, n.MQTT.WSS} {
		if err := CheckNodeAddress(a); a != "" && err != nil {
			return fmt.Errorf("node %d, where clients reach it: %w", n.ID, err)
		}
	}
	if n.State == NodeRemoved && n.Address == "" {
		return nil
	}
	return CheckNodeAddress(n.Address)
}

func nodeName(id NodeID) string { return strconv.FormatUint(uint64(id), 10) }

// number reads a decimal number as it is written here: one way to write each.
func number(name string, limit uint64) (uint64, error) {
	n, err := strconv.ParseUint(name, 10, 64)
	if err != nil || n > limit || strconv.FormatUint(n, 10) != name {
		return 0, errors.New("its name is not its number")
	}
	return n, nil
}

// Entry is what is stored of the node.
func (n *Node) Entry() Entry {
	version := byte(1)
	switch {
	case n.MQTT != (Doors{}):
		version = nodeMQTT
	case n.Kafka != (Endpoints{}):
		version = nodeKafka
	}
	b := []byte{version, byte(n.State), byte(n.Roles)}
	b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(n.Replica)), uint64(n.Level))
	b = appendString(appendString(appendString(b, n.Disk), n.Address), n.Rack)
	if version >= nodeKafka {
		b = appendString(appendString(b, n.Kafka.Plain), n.Kafka.TLS)
	}
	if version >= nodeMQTT {
		b = appendString(appendString(appendString(appendString(b, n.MQTT.Plain), n.MQTT.TLS), n.MQTT.WS), n.MQTT.WSS)
	}
	return Entry{Key: kindNode.key(nodeName(n.ID)), Value: b}
}

func decodeNode(name string, d *decoder) (any, error) {
	id, err := number(name, NodeIDMax)
	if err != nil {
		return nil, err
	}
	n := &Node{ID: NodeID(id), State: NodeState(d.byte()), Roles: Roles(d.byte()), Replica: d.uint32(), Level: d.uint32(),
		Disk: d.string(), Address: d.string(), Rack: d.string()}
	if d.version >= nodeKafka {
		n.Kafka = Endpoints{Plain: d.string(), TLS: d.string()}
	}
	if d.version >= nodeMQTT {
		n.MQTT = Doors{Plain: d.string(), TLS: d.string(), WS: d.string(), WSS: d.string()}
	}
	if d.bad {
		return n, nil // told by who reads the rest
	}
	if d.version == nodeKafka && n.Kafka == (Endpoints{}) || d.version == nodeMQTT && n.MQTT == (Doors{}) {
		return nil, errors.New("it has the version of one with endpoints, and none")
	}
	return n, n.check()
}

// Node finds a node, nil if it was never there. One that was removed is found.
func (s *Snapshot) Node(id NodeID) *Node {
	n, _ := get[*Node](s, kindNode, nodeName(id))
	return n
}

// Nodes walks the nodes, those that were removed among them, in no order that means anything. It sorts: not for hot paths.
func (s *Snapshot) Nodes() iter.Seq2[string, *Node] { return all[*Node](s, kindNode) }

// NodesChanged says whether the nodes may differ between two snapshots.
func NodesChanged(old, now *Snapshot) bool { return now.changed(kindNode, old) }
