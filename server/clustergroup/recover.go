package clustergroup

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/meta"
	"github.com/sluicemq/sluice/meta/raftgroup"
	"github.com/sluicemq/sluice/server"
)

// catalogDir is where a node keeps the group's files.
func catalogDir(c *config.Config) string { return filepath.Join(c.Node.Data, "catalog") }

// Survivor reads what Recover would go on with. The node may not run.
func Survivor(c *config.Config) (*raftgroup.Survivor, error) {
	s, err := raftgroup.ReadSurvivor(catalogDir(c))
	if err != nil {
		return nil, err
	}
	return s, sameNode(c, s)
}

func sameNode(c *config.Config, s *raftgroup.Survivor) error {
	if s.Node != meta.NodeID(c.Node.ID) {
		return fmt.Errorf("%w: %s belongs to node %d, node.id is %d", raftgroup.ErrOtherDisk, c.Node.Data, s.Node, c.Node.ID)
	}
	return nil
}

// Recover makes the data of a node whose cluster has lost its majority for good those of a new cluster, of this node alone. The node may not run. After an
// error it is to be called again: no node starts with the data before.
func Recover(c *config.Config, logger *slog.Logger) (was *raftgroup.Survivor, cluster string, err error) {
	if was, err = Survivor(c); err != nil {
		return nil, "", err
	}
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, "", err
	}
	_, err = raftgroup.Recover(catalogDir(c), base64.RawURLEncoding.EncodeToString(id[:]), logger, func(name string) error {
		cluster = name
		return server.RenameCluster(c, name)
	})
	return was, cluster, err
}
