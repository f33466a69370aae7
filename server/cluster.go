package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/meta"
)

// ClusterGroup is the catalog's group of a cluster. Who builds a Server says how to make one (Options.Cluster), so that a node that is alone, and
// the tests of one, do without what is behind it.
type ClusterGroup interface {
	meta.Group
	ClusterNodes
	// Start brings the group up and fills the catalog. Cluster names the cluster from then on.
	Start(ctx context.Context, c *meta.Catalog) error
	Cluster() string
	Address() string // where the other nodes reach this one
	// Mesh is the node's link to the others. What it shall carry is registered before Start.
	Mesh() *link.Mesh
	// Reload reads the certificates between nodes again. On error those that count stay.
	Reload() error
	// Reign tells in which term of the group this node leads it; ok false: it does not, as far as it knows.
	Reign() (term uint64, ok bool)
	// Silence is for how long at least the majority has heard nothing of any earlier leader when one is elected.
	Silence() time.Duration
	// Barrier returns once the majority of the group has agreed, after the call, on who leads.
	Barrier(ctx context.Context) error
	// HandOver has another node lead the group, if this one does, and returns when one does; or when ctx ends. heir says who, at each attempt anew, and is told who was
	// asked last; 0: nobody is there. From the call on nobody counts on this node's lead.
	HandOver(ctx context.Context, heir func(asked meta.NodeID) meta.NodeID) error
	// Advertise has the catalog say where clients of Kafka and of MQTT reach this node.
	Advertise(kafka meta.Endpoints, mqtt meta.Doors)
	Close() error
}

// ClusterNodes are the nodes of a cluster as they are changed and seen.
type ClusterNodes interface {
	Add(ctx context.Context, n meta.Node) error
	Remove(ctx context.Context, id meta.NodeID) error
	Replace(ctx context.Context, id meta.NodeID) error
	// Leader is the node that leads the catalog's group, as far as this one knows.
	Leader() (id meta.NodeID, known bool)
	// Halted says why this node applies no changes of the catalog any more, nil if it does.
	Halted() error
}

// ClusterOptions are what a ClusterGroup is made of.
type ClusterOptions struct {
	Dir     string // the group's own
	Cluster string // the name of the cluster that the data are of, or that is to be made; empty: it is told when the node joins
	Entries []meta.Entry
	Config  *config.Config
	Logger  *slog.Logger
	// Register is called with the link before anybody is connected, so that the parts of the node say what they take of other nodes. nil: none.
	Register func(*link.Mesh)
}

// clusterDir is where a node keeps the group's files.
func clusterDir(cfg *config.Config) string { return filepath.Join(cfg.Node.Data, "catalog") }

// inCluster tells whether the data are of a node that has formed a cluster or joined one.
func inCluster(cfg *config.Config) bool {
	b, err := os.ReadFile(filepath.Join(clusterDir(cfg), "NODE"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if name, ok := strings.CutPrefix(line, "cluster "); ok {
			return strings.TrimSpace(name) != ""
		}
	}
	return false
}

// checkCluster says whether the data fit to what the configuration says of a cluster.
func checkCluster(cfg *config.Config, o *Options) error {
	switch {
	case !cfg.Clustered() && inCluster(cfg):
		return fmt.Errorf("the data in %s are of a node of a cluster, whose users and rules are not in them alone: set listeners.cluster, or start with another node.data", cfg.Node.Data)
	case !cfg.Clustered() && ofCluster(cfg.Node.Data):
		return fmt.Errorf("the data in %s are restored from a backup of a cluster: set listeners.cluster; the node forms a cluster of its own, which others join", cfg.Node.Data)
	case cfg.Clustered() && o.Cluster == nil:
		return errors.New("listeners.cluster is set, and this program was built without clusters")
	}
	return nil
}

// clusterMaker makes the node's group once what the node had while it was alone is known; nil for a node that is alone.
func (s *Server) clusterMaker(cfg *config.Config) func(own []meta.Entry, register func(*link.Mesh)) (ClusterGroup, error) {
	if !cfg.Clustered() {
		return nil
	}
	return func(own []meta.Entry, register func(*link.Mesh)) (ClusterGroup, error) {
		o := ClusterOptions{Register: register, Dir: clusterDir(cfg), Entries: own, Config: cfg, Logger: s.log}
		known, err := knownCluster(cfg)
		if err != nil {
			return nil, err
		}
		if o.Cluster = known; known == "" && len(cfg.Cluster.Peers) == 0 && !inCluster(cfg) {
			if o.Cluster, err = clusterID(cfg); err != nil {
				return nil, err
			}
		}
		if len(cfg.Cluster.Peers) > 0 && !inCluster(cfg) && (known != "" || len(own) > 0) {
			return nil, fmt.Errorf("the data in %s are of a node that was alone: it can form a cluster (leave cluster.peers out), but join none; start with another node.data", cfg.Node.Data)
		}
		return s.o.Cluster(o)
	}
}

// knownCluster reads the name of the cluster that the data are of, empty if they have none.
func knownCluster(cfg *config.Config) (string, error) {
	b, err := os.ReadFile(filepath.Join(cfg.Node.Data, clusterFile))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(b)), err
}

// RenameCluster has the data of a node be of another cluster, which goes on with them. The node may not run.
func RenameCluster(cfg *config.Config, name string) error {
	return writeFileSynced(filepath.Join(cfg.Node.Data, clusterFile), name+"\n")
}

// keepClusterID stores the name of the cluster that the node has joined.
func keepClusterID(cfg *config.Config, name string) error {
	have, err := knownCluster(cfg)
	switch {
	case err != nil:
		return err
	case have == "":
		return writeFileSynced(filepath.Join(cfg.Node.Data, clusterFile), name+"\n")
	case have != name:
		return fmt.Errorf("the data in %s are of cluster %s, the catalog beside them of %s", cfg.Node.Data, have, name)
	}
	return nil
}

// clusterStartTimeout bounds how long a node waits until it has joined, or leads.
const clusterStartTimeout = 2 * time.Minute

// ownEntries are the entries that the core has from the time when the node was alone.
type ownEntries struct {
	mu     sync.Mutex
	values map[string][]byte
}

func (e *ownEntries) take(changes []broker.CatalogEntry) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.values == nil {
		e.values = make(map[string][]byte)
	}
	for _, c := range changes {
		if c.Value == nil {
			delete(e.values, c.Key)
			continue
		}
		e.values[c.Key] = c.Value
	}
}

func (e *ownEntries) list() (list []meta.Entry) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(e.values)) {
		list = append(list, meta.Entry{Key: key, Value: e.values[key]})
	}
	return list
}

// forgetChanges is how many entries one command of the core deletes.
const forgetChanges = 1000

// forget deletes them from the core: the cluster has them now. What is left after a crash goes with the next start.
func (e *ownEntries) forget(b *broker.Broker, logger *slog.Logger) {
	list := e.list()
	for part := range slices.Chunk(list, forgetChanges) {
		gone := make([]broker.CatalogEntry, len(part))
		for i := range part {
			gone[i].Key = part[i].Key
		}
		b.SetEntries(gone, func(err error) {
			if err != nil {
				logger.Warn("entries that the cluster has are left in the journal", "err", err)
			}
		})
	}
}

// startCluster makes the node one of its cluster: the catalog is the group's from here on.
func (n *node) startCluster(ctx context.Context, own *ownEntries) error {
	entries, err := meta.Refound(own.list(), meta.NodeID(n.o.kafka.node))
	if err != nil {
		return fmt.Errorf("what the data have of users and rules: %w", err)
	}
	g, err := n.o.cluster(entries, n.member.join)
	if err != nil {
		return err
	}
	n.cluster = g
	n.catalog.group.shared = g
	switch {
	case n.o.leader != nil:
		n.carryTo(n.o.leader, g.Mesh())
	case n.member != nil:
		n.carryTo(n.member, g.Mesh())
	}
	ctx, cancel := context.WithTimeout(ctx, clusterStartTimeout)
	defer cancel()
	if err := g.Start(ctx, n.catalog.Catalog); err != nil {
		return fmt.Errorf("start as a node of a cluster: %w", err)
	}
	n.o.kafka.cluster = g.Cluster()
	return nil
}

func (n *node) closeCluster() error {
	if n.cluster == nil {
		return nil
	}
	return n.cluster.Close()
}
