package raftgroup

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/sluicemq/sluice/meta"
)

// recoveryFile is what a cluster is to begin with that goes on with what one node of another one has. It is there until that cluster is formed.
const recoveryFile = "RECOVERY"

// ErrRecovery says that a recovery was cut off before its directory was that of the new cluster.
var ErrRecovery = errors.New("raftgroup: a recovery of this node was cut off: do it again (sluice node recover)")

type recovery struct {
	Cluster string          `json:"cluster"` // the new one's name
	Entries []recoveryEntry `json:"entries"`
	Found   Survivor        `json:"found"`
}

// recoveryEntry is a meta.Entry; keys need not be text.
type recoveryEntry struct {
	Key   []byte `json:"key"`
	Value []byte `json:"value"`
}

// Survivor is what a node's directory says of the cluster that has lost its majority, as far as this node has heard.
type Survivor struct {
	Cluster string        `json:"cluster"`
	Node    meta.NodeID   `json:"node"`
	Epoch   uint32        `json:"epoch"`
	Leader  meta.NodeID   `json:"leader"` // 0: nobody could
	InSync  []meta.NodeID `json:"in_sync"`
	// Whole says that the node was in sync, or eligible, in all sets of shards: if nothing was decided since without it, it has all that was acknowledged.
	Whole bool `json:"whole"`
	// Lost are the sets of shards that the node has no part in: what they had is gone.
	Lost []int `json:"lost,omitempty"`
	// Now is the cluster of this node alone that Recover has made already, and that waits for its first start; empty: none.
	Now string `json:"-"`
}

// ReadSurvivor reads what Recover would go on with. The node may not run.
func ReadSurvivor(dir string) (*Survivor, error) {
	r, err := readRecovery(dir)
	if err != nil {
		return nil, err
	}
	if r != nil {
		if r.done(dir) {
			r.Found.Now = r.Cluster
		}
		return &r.Found, nil
	}
	s, _, err := survivor(dir, slog.New(slog.DiscardHandler))
	return s, err
}

// done says whether all of a recovery is done but for the first start.
func (r *recovery) done(dir string) bool {
	id, err := readIdentity(dir)
	return err == nil && id != nil && id.cluster == r.Cluster
}

// Recover makes the directory of a node whose cluster has lost its majority for good that of a new cluster with this node alone: it has the catalog as this node
// has it, and this node leads all shards with what it has of them. named is called with the cluster's name once all that is needed is on stable storage: what it
// returns ends it, and it is done again by another call. Nodes of the old cluster are refused by the new one, which has another name. The node may not run.
func Recover(dir, cluster string, logger *slog.Logger, named func(cluster string) error) (*Survivor, error) {
	r, err := readRecovery(dir)
	if err != nil {
		return nil, err
	}
	if r == nil {
		if r, err = beginRecovery(dir, cluster, logger); err != nil {
			return nil, err
		}
	}
	if r.done(dir) {
		return &r.Found, nil
	}
	if err := named(r.Cluster); err != nil {
		return nil, err
	}
	for _, name := range []string{"raft", "state"} {
		lost := filepath.Join(dir, name+".lost-"+r.Found.Cluster)
		if err := os.Rename(filepath.Join(dir, name), lost); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	id := newIdentity(r.Found.Node)
	id.cluster, id.copy = r.Cluster, 1
	return &r.Found, id.write(dir)
}

func beginRecovery(dir, cluster string, logger *slog.Logger) (*recovery, error) {
	s, entries, err := survivor(dir, logger)
	if err != nil {
		return nil, err
	}
	r := &recovery{Cluster: cluster, Found: *s}
	for _, e := range entries {
		r.Entries = append(r.Entries, recoveryEntry{[]byte(e.Key), e.Value})
	}
	b, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	return r, writeSynced(dir, recoveryFile, b)
}

// survivor reads the catalog that the node has.
func survivor(dir string, logger *slog.Logger) (*Survivor, []meta.Entry, error) {
	id, err := readIdentity(dir)
	switch {
	case err != nil:
		return nil, nil, err
	case id == nil || id.cluster == "":
		return nil, nil, fmt.Errorf("raftgroup: %s is not of a node of a cluster", dir)
	}
	var all []meta.Entry
	c := meta.New(nil)
	st, err := openState(filepath.Join(dir, "state"), nil, logger, func(index uint64, entries []meta.Entry) {
		all = append(all, entries...)
		c.Apply(index, entries)
	})
	if err != nil {
		return nil, nil, err
	}
	if err := errors.Join(c.Recovered(), st.close()); err != nil {
		return nil, nil, err
	}
	snapshot := c.Load()
	entries, lost, err := meta.Survive(snapshot, all, id.node)
	if err != nil {
		return nil, nil, err
	}
	s := &Survivor{Cluster: id.cluster, Node: id.node, Lost: lost}
	if sh := snapshot.Shard(0); sh != nil {
		s.Epoch, s.Leader, s.InSync, s.Whole = sh.Epoch, sh.Leader, sh.ISR, true
	}
	for _, sh := range snapshot.Shards() {
		s.Whole = s.Whole && (slices.Contains(sh.ISR, id.node) || slices.Contains(sh.Eligible, id.node))
	}
	return s, entries, nil
}

// readRecovery reads a recovery that was begun, nil if none was.
func readRecovery(dir string) (*recovery, error) {
	b, err := os.ReadFile(filepath.Join(dir, recoveryFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r := &recovery{}
	if err := json.Unmarshal(b, r); err != nil || r.Cluster == "" || r.Found.Node == 0 {
		return nil, fmt.Errorf("%w: %s cannot be read (%w)", ErrRecovery, recoveryFile, err)
	}
	return r, nil
}

// goOn has the group form the cluster that a recovery wants, whatever it is told to join.
func (g *Group) goOn(id *identity) error {
	r, err := readRecovery(g.o.Dir)
	if err != nil || r == nil {
		return err
	}
	if r.Cluster != id.cluster {
		return ErrRecovery
	}
	g.o.Form, g.o.Join = &Form{}, nil
	for _, e := range r.Entries {
		g.o.Form.Entries = append(g.o.Form.Entries, meta.Entry{Key: string(e.Key), Value: e.Value})
	}
	return nil
}

// recovered ends a recovery: the cluster is formed.
func (g *Group) recovered() error {
	err := os.Remove(filepath.Join(g.o.Dir, recoveryFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return errors.Join(err, syncDir(g.o.Dir))
}
