package meta

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// placed is a snapshot with what rules make.
type placed struct {
	t *testing.T
	s *Snapshot
}

func (p *placed) do(list []Entry, err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
	p.take(list)
}

func (p *placed) take(list []Entry) {
	p.t.Helper()
	e := p.s.edit()
	if err := e.enter(list); err != nil {
		p.t.Fatal(err)
	}
	p.s = e.take()
}

func refused(t *testing.T, want error, list []Entry, err error) {
	t.Helper()
	if !errors.Is(err, want) || list != nil {
		t.Errorf("%v and %d entries, want %v", err, len(list), want)
	}
}

func testNode(id NodeID) Node {
	return Node{ID: id, Roles: RolesAll, Level: Level, Address: fmt.Sprint("host-", id, ":7000")}
}

// formed is a cluster of n active nodes.
func formed(t *testing.T, n int) *placed {
	t.Helper()
	p := &placed{t, emptySnapshot()}
	p.do(FormCluster(p.s, Cluster{ID: "c", Shards: 4, Level: 1}, testNode(1)))
	for id := NodeID(2); id <= NodeID(n); id++ {
		p.do(AddNode(p.s, testNode(id)))
		p.do(ClaimNode(p.s, id, fmt.Sprint("disk", id), testNode(id).Address, Level))
		p.do(ActivateNode(p.s, id))
	}
	return p
}

// What is on disk never changes its meaning.
func TestPlacementVectors(t *testing.T) {
	newest := map[string]byte{"clus": 4, "node": 3, "shar": 3}
	for _, v := range []struct {
		key, value string
		entry      interface{ Entry() Entry }
	}{
		{"cluster/this", "010163401" + "1", &Cluster{ID: "c", Shards: 64, Level: 17}},
		{"cluster/this", "020163401" + "1" + "01", &Cluster{ID: "c", Shards: 64, Level: 17, Held: true}},
		{"cluster/this", "030163401" + "1" + "00" + "06", &Cluster{ID: "c", Shards: 64, Level: 17, Sets: 6}},
		{"cluster/this", "030163401" + "1" + "01" + "01", &Cluster{ID: "c", Shards: 64, Level: 17, Held: true, Sets: 1}},
		{"cluster/this", "040163401" + "1" + "00" + "03" + "000102", &Cluster{ID: "c", Shards: 64, Level: 17, Sets: 3, Replicas: [SetsMax + 1]uint8{2: 1, 3: 2}}},
		{"node/7", "0102070301" + "026471" + "06686f73743a31" + "0161", &Node{ID: 7, State: NodeActive, Roles: RolesAll, Replica: 3, Level: 1, Disk: "dq", Address: "host:1", Rack: "a"}},
		{"node/65535", "010304ffff0380020000" + "00", &Node{ID: 65535, State: NodeRemoved, Roles: RoleMeta, Replica: 65535, Level: 256}},
		{"node/8", "0202070102" + "026471" + "06686f73743a31" + "00" + "036b3a39" + "00", &Node{ID: 8, State: NodeActive, Roles: RolesAll, Replica: 1, Level: 2, Disk: "dq", Address: "host:1", Kafka: Endpoints{Plain: "k:9"}}},
		{"node/9", "0201020102" + "00" + "06686f73743a31" + "0161" + "00" + "036b3a39", &Node{ID: 9, State: NodeJoining, Roles: RoleJournal, Replica: 1, Level: 2, Address: "host:1", Rack: "a", Kafka: Endpoints{TLS: "k:9"}}},
		{"node/10", "0302070102" + "00" + "06686f73743a31" + "00" + "0000" + "036d3a31" + "0000" + "036d3a32", &Node{ID: 10, State: NodeActive, Roles: RolesAll, Replica: 1, Level: 2, Address: "host:1", MQTT: Doors{Plain: "m:1", WSS: "m:2"}}},
		{"shard/0", "0105ac0202" + "03020103" + "020102" + "0103", &Shard{ID: 0, Change: 5, Epoch: 300, Leader: 2, Replicas: []NodeID{2, 1, 3}, ISR: []NodeID{1, 2}, Eligible: []NodeID{3}}},
		{"shard/4095", "010100000101" + "0000", &Shard{ID: 4095, Change: 1, Replicas: []NodeID{1}}},
		{"shard/1", "02050102" + "020201" + "020102" + "00" + "020203", &Shard{ID: 1, Change: 5, Epoch: 1, Leader: 2, Replicas: []NodeID{2, 1}, ISR: []NodeID{1, 2}, Target: []NodeID{2, 3}}},
		{"shard/2", "03050102" + "0102" + "0102" + "00" + "00" + "0101", &Shard{ID: 2, Change: 5, Epoch: 1, Leader: 2, Replicas: []NodeID{2}, ISR: []NodeID{2}, Home: []NodeID{1}}},
	} {
		e := v.entry.Entry()
		if e.Key != v.key || hex.EncodeToString(e.Value) != v.value {
			t.Errorf("%s %x, want %s %s", e.Key, e.Value, v.key, v.value)
			continue
		}
		if got := entryOf(t, e); !reflect.DeepEqual(got, v.entry) {
			t.Errorf("%s: %+v, want %+v", v.key, got, v.entry)
		}
		for n := range len(e.Value) {
			cut := Entry{e.Key, e.Value[:n]}
			if cut.Check() == nil {
				t.Errorf("%s: %d bytes of %d pass", v.key, n, len(e.Value))
			}
		}
		newer := Entry{e.Key, append([]byte{newest[v.key[:4]] + 1}, e.Value[1:]...)}
		if err := newer.Check(); !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), v.key[strings.IndexByte(v.key, '/')+1:]) {
			t.Errorf("%s in a version to come: %v", v.key, err)
		}
		renamed := Entry{"x" + e.Key, e.Value}
		if err := renamed.Check(); !errors.Is(err, ErrKind) {
			t.Errorf("%s of another kind: %v", v.key, err)
		}
	}
	for _, name := range []string{"node/07", "node/0", "node/65536", "node/x", "node/+1", "shard/4096", "shard/00", "cluster/that"} {
		kind, _, _ := strings.Cut(name, "/")
		value := map[string][]byte{"node": (&Node{ID: 1, State: NodeActive, Roles: 1, Replica: 1, Address: "h:1"}).Entry().Value,
			"shard": (&Shard{Change: 1, Replicas: []NodeID{1}}).Entry().Value, "cluster": (&Cluster{ID: "c", Shards: 1, Level: 1}).Entry().Value}[kind]
		if e := (Entry{name, value}); !errors.Is(e.Check(), ErrEntry) {
			t.Errorf("%s: %v", name, e.Check())
		}
	}
}

func TestPlacementBounds(t *testing.T) {
	n := Node{ID: 1, State: NodeActive, Roles: RolesAll, Replica: 1, Level: 1, Address: "h:1"}
	for name, change := range map[string]func(*Node){
		"state": func(n *Node) { n.State = 4 }, "no state": func(n *Node) { n.State = 0 }, "roles": func(n *Node) { n.Roles = 8 }, "no roles": func(n *Node) { n.Roles = 0 },
		"replica": func(n *Node) { n.Replica = 0 }, "replicas": func(n *Node) { n.Replica = 1 << 16 }, "disk": func(n *Node) { n.Disk = strings.Repeat("x", 65) },
		"rack": func(n *Node) { n.Rack = strings.Repeat("x", 256) }, "no address": func(n *Node) { n.Address = "" }, "endpoint": func(n *Node) { n.Kafka.Plain = "0.0.0.0:9092" }, "TLS endpoint": func(n *Node) { n.Kafka.TLS = "h" }, "address": func(n *Node) { n.Address = "0.0.0.0:7000" },
	} {
		bad := n
		change(&bad)
		if e := bad.Entry(); !errors.Is(e.Check(), ErrEntry) {
			t.Errorf("%s: %v", name, e.Check())
		}
	}
	sh := Shard{Change: 1, Leader: 1, Replicas: []NodeID{1, 2, 3}, ISR: []NodeID{1, 2}}
	for name, change := range map[string]func(*Shard){
		"change": func(s *Shard) { s.Change = 0 }, "none": func(s *Shard) { s.Replicas, s.ISR, s.Leader = nil, nil, 0 }, "twice": func(s *Shard) { s.Replicas = []NodeID{1, 2, 1} },
		"order": func(s *Shard) { s.ISR = []NodeID{2, 1} }, "foreign": func(s *Shard) { s.ISR = []NodeID{1, 4} }, "both": func(s *Shard) { s.Eligible = []NodeID{2} },
		"leader": func(s *Shard) { s.Leader = 3 }, "target": func(s *Shard) { s.Target = []NodeID{4, 4} }, "target's node": func(s *Shard) { s.Target = []NodeID{0} }, "node": func(s *Shard) { s.Replicas = []NodeID{1, 2, 0} },
		"many": func(s *Shard) {
			for i := NodeID(4); len(s.Replicas) <= ReplicasMax; i++ {
				s.Replicas = append(s.Replicas, i)
			}
		},
	} {
		bad := sh
		change(&bad)
		if e := bad.Entry(); !errors.Is(e.Check(), ErrEntry) {
			t.Errorf("%s: %v", name, e.Check())
		}
	}
	for _, c := range []Cluster{{}, {ID: "c", Shards: 1}, {ID: "c", Level: 1}, {ID: "c", Shards: ShardsMax + 1, Level: 1}, {ID: strings.Repeat("x", 65), Shards: 1, Level: 1}} {
		if e := c.Entry(); !errors.Is(e.Check(), ErrEntry) {
			t.Errorf("%+v: %v", c, e.Check())
		}
	}
	for _, a := range []string{"", "host", ":7000", "0.0.0.0:1", "[::]:1", "host:0", "host:70000", "ho st:1", "host:x", "::ffff:0.0.0.0:1", strings.Repeat("x", 255) + ":1"} {
		if CheckNodeAddress(a) == nil {
			t.Errorf("%q is a node's address", a)
		}
	}
	for _, a := range []string{"host:7000", "127.0.0.1:1", "[::1]:65535", "10.1.2.3:9"} {
		if err := CheckNodeAddress(a); err != nil {
			t.Error(err)
		}
	}
}

func TestNodeRules(t *testing.T) {
	lone := emptySnapshot()
	list, err := AddNode(lone, testNode(2))
	refused(t, ErrNoCluster, list, err)
	p := formed(t, 1)
	list, err = FormCluster(p.s, Cluster{ID: "d", Shards: 4, Level: 1}, testNode(1))
	refused(t, ErrFormed, list, err)
	list, err = RemoveNode(p.s, 1)
	refused(t, ErrNodeInUse, list, err)
	p.do(AddNode(p.s, testNode(2)))
	list, err = AddNode(p.s, testNode(2))
	refused(t, ErrNodeExists, list, err)
	third := testNode(3)
	third.Address = testNode(2).Address
	list, err = AddNode(p.s, third)
	refused(t, ErrNodeExists, list, err)
	list, err = RemoveNode(p.s, 1)
	refused(t, ErrNodeInUse, list, err) // the other one does not vote yet
	list, err = ClaimNode(p.s, 3, "d", "h:1", Level)
	refused(t, ErrNoNode, list, err)
	p.do(ClaimNode(p.s, 2, "d", "h:1", Level))
	if n := p.s.Node(2); n.Disk != "d" || n.Address != "h:1" || n.State != NodeJoining || n.Replica != 1 {
		t.Errorf("%+v", n)
	}
	if list, err = ClaimNode(p.s, 2, "d", "h:1", Level); err != nil || list != nil {
		t.Errorf("again: %v %v", list, err)
	}
	list, err = ClaimNode(p.s, 2, "e", "h:1", Level)
	refused(t, ErrOtherDisk, list, err)
	list, err = ClaimNode(p.s, 2, "d", "h:1", 0)
	refused(t, ErrLevel, list, err)
	p.do(ActivateNode(p.s, 2))
	if list, err = ActivateNode(p.s, 2); err != nil || list != nil {
		t.Errorf("again: %v %v", list, err)
	}
	p.do(SetShard(p.s, Shard{ID: 1, Epoch: 1, Leader: 2, Replicas: []NodeID{2}, ISR: []NodeID{2}}))
	list, err = RemoveNode(p.s, 2)
	refused(t, ErrNodeInUse, list, err)
	p.do(SetShard(p.s, Shard{ID: 1, Change: 1, Epoch: 1, Leader: 2, Replicas: []NodeID{2, 1}, ISR: []NodeID{1, 2}}))
	p.do(SetShard(p.s, Shard{ID: 1, Change: 2, Epoch: 2, Leader: 1, Replicas: []NodeID{1}, ISR: []NodeID{1}}))
	p.do(ReplaceNode(p.s, 2))
	if n := p.s.Node(2); n.Disk != "" || n.State != NodeJoining || n.Replica != 2 {
		t.Errorf("%+v", n)
	}
	p.do(ClaimNode(p.s, 2, "e", "h:2", Level))
	p.do(RemoveNode(p.s, 2))
	if list, err = RemoveNode(p.s, 2); err != nil || list != nil {
		t.Errorf("again: %v %v", list, err)
	}
	for _, rule := range []func() ([]Entry, error){
		func() ([]Entry, error) { return AddNode(p.s, testNode(2)) }, func() ([]Entry, error) { return ClaimNode(p.s, 2, "e", "h:2", Level) },
		func() ([]Entry, error) { return ActivateNode(p.s, 2) }, func() ([]Entry, error) { return ReplaceNode(p.s, 2) },
	} {
		list, err = rule()
		refused(t, ErrNodeGone, list, err)
	}
	again := testNode(3)
	again.Address = "h:2"
	p.do(AddNode(p.s, again)) // the address of one that was removed
}

func TestRaiseLevel(t *testing.T) {
	p := formed(t, 2)
	list, err := RaiseLevel(p.s, Level+1)
	refused(t, ErrLevel, list, err)
	p.do(ClaimNode(p.s, 1, "disk1", testNode(1).Address, Level+2))
	p.do(ClaimNode(p.s, 2, "disk2", testNode(2).Address, Level+1))
	p.do(RaiseLevel(p.s, Level+1))
	if list, err = RaiseLevel(p.s, Level+1); err != nil || list != nil {
		t.Errorf("again: %v %v", list, err)
	}
	list, err = ClaimNode(p.s, 2, "disk2", testNode(2).Address, Level)
	refused(t, ErrLevel, list, err)
	if _, err = RaiseLevel(p.s, Level); err == nil {
		t.Error("it went back")
	}
}

// A level that is held stays until that is ended, which raises it to what all nodes can do, and is refused while some can do less than others.
func TestHoldLevel(t *testing.T) {
	p := formed(t, 3) // at the first level
	list, err := HoldLevel(p.s, true)
	refused(t, ErrLevel, list, err)
	if list, err = HoldLevel(p.s, false); err != nil || len(list) != 1 {
		t.Errorf("raised at once: %v %v", list, err)
	}
	p.do(RaiseLevel(p.s, LevelLater))
	if e := p.s.Cluster().Entry(); e.Value[0] != 1 {
		t.Errorf("a level that is not held has version %d", e.Value[0])
	}
	p.do(HoldLevel(p.s, true))
	if list, err = HoldLevel(p.s, true); err != nil || list != nil {
		t.Errorf("again: %v %v", list, err)
	}
	for id := NodeID(1); id <= 3; id++ { // they can do no more at first, whatever this program can
		p.do(ClaimNode(p.s, id, fmt.Sprint("disk", id), testNode(id).Address, LevelLater))
	}
	for id := NodeID(1); id <= 3; id++ {
		list, err = RaiseLevel(p.s, LevelLater+1)
		refused(t, ErrHeld, list, err)
		if id > 1 {
			list, err = HoldLevel(p.s, false)
			refused(t, ErrLevel, list, err)
		}
		p.do(ClaimNode(p.s, id, fmt.Sprint("disk", id), testNode(id).Address, LevelLater+2-uint32(id)/3))
	}
	if got := LevelOfAll(p.s); got != LevelLater+1 || p.s.Cluster().Level != LevelLater {
		t.Errorf("all can do %d, the cluster is at %d", got, p.s.Cluster().Level)
	}
	p.do(ClaimNode(p.s, 1, "disk1", testNode(1).Address, LevelLater)) // it goes back
	p.do(ClaimNode(p.s, 1, "disk1", testNode(1).Address, LevelLater+1))
	p.do(ClaimNode(p.s, 2, "disk2", testNode(2).Address, LevelLater+1))
	p.do(HoldLevel(p.s, false))
	if c := p.s.Cluster(); c.Held || c.Level != LevelLater+1 {
		t.Errorf("%+v", c)
	}
	list, err = ClaimNode(p.s, 1, "disk1", testNode(1).Address, LevelLater)
	refused(t, ErrLevel, list, err)
}

// What a node says of its clients is kept until it goes, and is written only once all nodes can read it.
func TestAdvertiseNode(t *testing.T) {
	p := formed(t, 2) // at the first level
	at := Endpoints{Plain: "k:9092", TLS: "k:9093"}
	list, err := AdvertiseNode(p.s, 2, "", at, Doors{})
	if list != nil || err != nil {
		t.Errorf("at level %d: %v, %v", p.s.Cluster().Level, list, err)
	}
	p.do(RaiseLevel(p.s, LevelEndpoints))
	p.do(AdvertiseNode(p.s, 2, "", at, Doors{}))
	if n := p.s.Node(2); n.Kafka != at || n.Address != testNode(2).Address || n.State != NodeActive {
		t.Errorf("%+v", n)
	}
	if list, err = AdvertiseNode(p.s, 2, "", at, Doors{}); list != nil || err != nil {
		t.Errorf("again: %v, %v", list, err)
	}
	if list, err = AdvertiseNode(p.s, 2, "", Endpoints{Plain: "0.0.0.0:9092"}, Doors{}); list != nil || err == nil {
		t.Errorf("an address of all nodes: %v, %v", list, err)
	}
	list, err = AdvertiseNode(p.s, 3, "", at, Doors{})
	refused(t, ErrNoNode, list, err)
	p.do(ClaimNode(p.s, 2, "disk2", "other:1", Level))
	if n := p.s.Node(2); n.Kafka != at {
		t.Errorf("a start forgets %+v", at)
	}
	p.do(AdvertiseNode(p.s, 2, "a", at, Doors{}))
	p.do(ClaimNode(p.s, 2, "disk2", "other:2", Level))
	if list, err = AdvertiseNode(p.s, 2, "", at, Doors{}); list != nil || err != nil || p.s.Node(2).Rack != "a" {
		t.Errorf("who does not name a rack stays in %q: %v, %v", p.s.Node(2).Rack, list, err)
	}
	p.do(AdvertiseNode(p.s, 2, "b", Endpoints{}, Doors{}))
	if n := p.s.Node(2); n.Rack != "b" {
		t.Errorf("in rack %q", n.Rack)
	}
	if e := p.s.Node(2).Entry(); e.Value[0] != 1 {
		t.Errorf("without endpoints it has version %d", e.Value[0])
	}
	p.do(AdvertiseNode(p.s, 2, "", at, Doors{}))
	p.do(ReplaceNode(p.s, 2))
	if n := p.s.Node(2); n.Kafka != (Endpoints{}) {
		t.Errorf("a node that begins anew: %+v", n)
	}
	doors := Doors{Plain: "m:1883"}
	p.do(AdvertiseNode(p.s, 2, "", at, doors))
	if n := p.s.Node(2); n.MQTT != (Doors{}) {
		t.Errorf("below its level: %+v", n)
	}
	p.do(RaiseLevel(p.s, LevelLater))
	p.do(AdvertiseNode(p.s, 2, "", at, doors))
	if n := p.s.Node(2); n.MQTT != doors || n.Kafka != at {
		t.Errorf("%+v", n)
	}
	p.do(RemoveNode(p.s, 2))
	if n := p.s.Node(2); n.Kafka != (Endpoints{}) || n.MQTT != (Doors{}) {
		t.Errorf("a node that is gone: %+v", n)
	}
}

func TestShardRules(t *testing.T) {
	p := formed(t, 3)
	p.do(SetShard(p.s, Shard{Epoch: 1, Leader: 1, Replicas: []NodeID{1, 2, 3}, ISR: []NodeID{1, 2}, Eligible: []NodeID{3}}))
	for name, bad := range map[string]struct {
		shard Shard
		want  error
	}{
		"stale":         {Shard{Epoch: 1, Leader: 1, Replicas: []NodeID{1}, ISR: []NodeID{1}}, ErrStale},
		"number":        {Shard{ID: 4, Epoch: 1, Leader: 1, Replicas: []NodeID{1}, ISR: []NodeID{1}}, ErrShard},
		"epoch":         {Shard{Change: 1, Epoch: 1, Leader: 2, Replicas: []NodeID{1, 2}, ISR: []NodeID{1, 2}}, ErrShard},
		"epochs":        {Shard{Change: 1, Epoch: 3, Leader: 2, Replicas: []NodeID{1, 2}, ISR: []NodeID{1, 2}}, ErrShard},
		"back":          {Shard{Change: 1, Epoch: 0, Leader: 1, Replicas: []NodeID{1, 2}, ISR: []NodeID{1, 2}}, ErrShard},
		"nobody":        {Shard{Change: 1, Epoch: 2, Leader: 4, Replicas: []NodeID{1, 4}, ISR: []NodeID{4}}, ErrShard},
		"not in sync":   {Shard{Change: 1, Epoch: 2, Leader: 2, Replicas: []NodeID{1, 2}, ISR: []NodeID{1}}, ErrShard},
		"without nodes": {Shard{Change: 1, Epoch: 2}, ErrShard},
	} {
		list, err := SetShard(p.s, bad.shard)
		if !errors.Is(err, bad.want) || list != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	p.do(SetShard(p.s, Shard{Change: 1, Epoch: 2, Leader: 3, Replicas: []NodeID{1, 2, 3}, ISR: []NodeID{3}})) // an eligible one
	next := Shard{Change: 2, Epoch: 3, Leader: 1, Replicas: []NodeID{1, 2, 3}, ISR: []NodeID{1}}
	list, err := SetShard(p.s, next)
	refused(t, ErrUnclean, list, err)
	p.do(ElectUnclean(p.s, next))
	p.do(SetShard(p.s, Shard{Change: 3, Epoch: 4, Replicas: []NodeID{1, 2, 3}, Eligible: []NodeID{1}})) // nobody is left
	if sh := p.s.Shard(0); sh.Change != 4 || sh.Leader != 0 || sh.Epoch != 4 {
		t.Errorf("%+v", sh)
	}
	old := p.s
	p.do(SetShard(p.s, Shard{Change: 4, Epoch: 5, Leader: 1, Replicas: []NodeID{1}, ISR: []NodeID{1}}))
	var changed []uint32
	ChangedShards(old, p.s, func(id uint32) { changed = append(changed, id) })
	if !slices.Equal(changed, []uint32{0}) || !ShardsChanged(old, p.s) || NodesChanged(old, p.s) {
		t.Errorf("%v", changed)
	}
}

// Where a shard is on its way to is known from a level on, and forgotten when it is there, or when a node goes that was to have it.
func TestShardTarget(t *testing.T) {
	p := formed(t, 4)
	next := Shard{Epoch: 1, Leader: 1, Replicas: []NodeID{1, 2}, ISR: []NodeID{1, 2}, Target: []NodeID{1, 3}}
	list, err := SetShard(p.s, next)
	refused(t, ErrLevel, list, err)
	p.do(RaiseLevel(p.s, LevelBalance))
	p.do(SetShard(p.s, next))
	next.Change, next.Target = 1, []NodeID{1, 5}
	list, err = SetShard(p.s, next)
	refused(t, ErrShard, list, err)
	p.do(ReplaceNode(p.s, 3))
	if sh := p.s.Shard(0); !slices.Equal(sh.Target, []NodeID{1, 3}) || sh.Change != 1 {
		t.Errorf("a node that comes begins anew: %+v", sh)
	}
	p.do(RemoveNode(p.s, 3))
	if sh := p.s.Shard(0); !slices.Equal(sh.Target, []NodeID{1}) || !slices.Equal(sh.Replicas, []NodeID{1, 2}) {
		t.Errorf("a node that was to come is removed: %+v", sh)
	}
	next = *p.s.Shard(0)
	next.Target = []NodeID{1, 4}
	p.do(SetShard(p.s, next))
	next = *p.s.Shard(0)
	next.Replicas, next.ISR = []NodeID{1, 2, 4}, []NodeID{1, 2, 4}
	next.Arrived()
	p.do(SetShard(p.s, next))
	p.do(RemoveNode(p.s, 2))
	if sh := p.s.Shard(0); sh.Target != nil || !slices.Equal(sh.Replicas, []NodeID{1, 4}) {
		t.Errorf("the node that was to go is removed: %+v", sh)
	}
}

// Whatever rules are asked for in any order: what they answer can be read, epochs and changes only grow, and no removed node comes back.
func TestPlacementModel(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	p := formed(t, 1)
	pick := func() NodeID { return NodeID(1 + r.IntN(6)) }
	for range 5000 {
		var list []Entry
		var err error
		id := pick()
		switch r.IntN(6) {
		case 0:
			list, err = AddNode(p.s, testNode(id))
		case 1:
			list, err = ClaimNode(p.s, id, fmt.Sprint("d", r.IntN(2)), testNode(id).Address, Level)
		case 2:
			list, err = ActivateNode(p.s, id)
		case 3:
			if r.IntN(20) == 0 {
				list, err = RemoveNode(p.s, id)
			}
		case 4:
			if r.IntN(20) == 0 {
				list, err = ReplaceNode(p.s, id)
			}
		default:
			next := Shard{ID: uint32(r.IntN(4)), Replicas: []NodeID{id}}
			if have := p.s.Shard(next.ID); have != nil {
				next.Change, next.Epoch, next.Leader = have.Change, have.Epoch, have.Leader
			}
			if other := pick(); other != id {
				next.Replicas = append(next.Replicas, other)
			}
			next.ISR = slices.Sorted(slices.Values(next.Replicas))
			if r.IntN(2) == 0 {
				next.Leader, next.Epoch = id, next.Epoch+1
			}
			list, err = SetShard(p.s, next)
		}
		if err != nil {
			if list != nil {
				t.Fatalf("%v, and entries", err)
			}
			continue
		}
		old := p.s
		p.take(list)
		for _, was := range old.Nodes() {
			if n := p.s.Node(was.ID); n == nil || was.State == NodeRemoved && n.State != NodeRemoved || n.Replica < was.Replica {
				t.Fatalf("%+v became %+v", was, n)
			}
		}
		for _, sh := range p.s.Shards() {
			if was := old.Shard(sh.ID); was != nil && (sh.Epoch < was.Epoch || sh.Change < was.Change || sh.Leader != was.Leader && sh.Epoch == was.Epoch) {
				t.Fatalf("%+v became %+v", was, sh)
			}
			for _, id := range sh.Replicas {
				if n := p.s.Node(id); n == nil || n.State == NodeRemoved {
					t.Fatalf("shard %d has node %d, which is not there", sh.ID, id)
				}
			}
		}
	}
}

// Changes that lose against those of others are made again; one of which nobody knows what becomes is not.
func TestConflicts(t *testing.T) {
	c, g := newCatalog(t)
	conflicts := 0
	var bases []uint64
	g.fail = func([]Entry) error {
		if conflicts++; conflicts < 5 {
			c.Apply(uint64(conflicts), []Entry{(&User{Name: fmt.Sprint("other", conflicts)}).Entry()})
			return ErrConflict
		}
		return nil
	}
	seen := 0
	if err := update1(t, c, func(s *Snapshot) ([]Entry, error) {
		seen = s.UserCount()
		bases = append(bases, s.Index())
		return []Entry{(&User{Name: "mine"}).Entry()}, nil
	}); err != nil || seen != 4 || !slices.Equal(bases, []uint64{0, 1, 2, 3, 4}) {
		t.Errorf("%v, it saw %d users, at %v", err, seen, bases)
	}
	g.fail = func([]Entry) error { return ErrConflict }
	if err := update1(t, c, one(DeleteUser("mine"))); !errors.Is(err, ErrConflict) {
		t.Errorf("for ever: %v", err)
	}
	for _, final := range []error{ErrUnknown, ErrNoMajority} {
		tries := 0
		g.fail = func([]Entry) error { tries++; return fmt.Errorf("x: %w", final) }
		g.held = true
		answers := 0
		for i := range 3 {
			c.Update(one((&User{Name: fmt.Sprint("u", i)}).Entry()), func(err error) {
				if errors.Is(err, final) {
					answers++
				}
			})
		}
		for g.step() {
		}
		g.held = false
		if tries != 2 || answers != 3 {
			t.Errorf("%v: %d commands, %d answers", final, tries, answers)
		}
	}
}

func TestClasses(t *testing.T) {
	for key, want := range map[string]int{"user/a": 0, "binding/a": 1, "acl/a": 2, "quota/a": 3, "secret/a": 4, "node/1": 5, "shard/1": 5, "cluster/this": 5, "ban/a": 3} {
		e := Entry{Key: key}
		if got, err := e.Class(); err != nil || got != want || got >= ClassCount {
			t.Errorf("%s: %d %v", key, got, err)
		}
	}
	e := Entry{Key: "cow/a"}
	if _, err := e.Class(); !errors.Is(err, ErrKind) {
		t.Error(err)
	}
}

func FuzzPlacement(f *testing.F) {
	f.Add("node/7", (&Node{ID: 7, State: NodeActive, Roles: RolesAll, Replica: 3, Level: 1, Disk: "dq", Address: "host:1"}).Entry().Value)
	f.Add("shard/0", (&Shard{Change: 5, Epoch: 300, Leader: 2, Replicas: []NodeID{2, 1, 3}, ISR: []NodeID{1, 2}, Eligible: []NodeID{3}}).Entry().Value)
	f.Add("cluster/this", (&Cluster{ID: "c", Shards: 64, Level: 1}).Entry().Value)
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		e := Entry{key, value}
		_, _, v, err := e.decode()
		if err != nil || v == nil {
			return
		}
		again := v.(interface{ Entry() Entry }).Entry()
		_, _, w, err := again.decode()
		if err != nil || again.Key != key || !reflect.DeepEqual(v, w) {
			t.Errorf("%+v is %+v the second time: %v", v, w, err)
		}
	})
}
