package meta

import (
	"errors"
	"testing"
)

// What a backup of a cluster keeps of the catalog makes another cluster of one node, in later epochs, and has nothing of the nodes.
func TestRefound(t *testing.T) {
	c := New(nil)
	three := []NodeID{1, 2, 3}
	shard := Shard{ID: 4, Change: 7, Epoch: 9, Leader: 2, Replicas: three, ISR: three}
	first := Node{ID: 1, Roles: RolesAll, Level: Level, Disk: "d", Address: "127.0.0.1:1"}
	formed, err := FormCluster(c.Load(), Cluster{ID: "old", Shards: 8, Level: Level}, first)
	if err != nil {
		t.Fatal(err)
	}
	c.Apply(1, append(formed, (&User{Name: "kept", Password: "x"}).Entry(), (&Secret{Name: "s", Value: "v"}).Entry(), shard.Entry()))
	if err := c.Recovered(); err != nil {
		t.Fatal(err)
	}
	kept := Kept(c.Load())
	if len(kept) != 3 {
		t.Fatalf("kept %v", kept)
	}
	again, err := Refound(kept, 6)
	if err != nil {
		t.Fatal(err)
	}
	n := New(nil)
	n.Apply(1, again)
	if err := n.Recovered(); err != nil {
		t.Fatal(err)
	}
	s := n.Load()
	if s.User("kept") == nil || s.Secret("s") != "v" || s.Cluster() != nil || s.Node(1) != nil {
		t.Errorf("found again: %v", again)
	}
	sh := s.Shard(4)
	if sh == nil || sh.Epoch != 10 || sh.Leader != 6 || len(sh.Replicas) != 1 || len(sh.ISR) != 1 {
		t.Errorf("the shard is %+v", sh)
	}
	if _, err := Refound(formed, 6); !errors.Is(err, ErrEntry) {
		t.Errorf("the nodes of another cluster: %v", err)
	}
	if _, err := Refound([]Entry{{Key: "user/a", Value: []byte{250}}}, 6); !errors.Is(err, ErrVersion) {
		t.Errorf("an entry of a newer program: %v", err)
	}
}
