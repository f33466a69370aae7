package raftgroup

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/sluicemq/sluice/meta"
)

// identity is what a data directory knows of itself: it is tied to one node, one cluster and one copy of the catalog for good.
type identity struct {
	node    meta.NodeID
	disk    string // random, made with the directory
	cluster string // empty until the node has formed a cluster or joined one
	copy    uint32
	run     uint64 // counts the starts: what an earlier one has sent off counts no more once this one has
	host    string // of the machine, after which Dragonboat calls a folder
	// started says that Dragonboat has a log for the copy; voter, that a snapshot in it has the copy as one that votes.
	started, voter bool
	joined         bool // it did not form the cluster
}

const identityFile = "NODE"

// Errors of a data directory that does not fit.
var (
	ErrOtherDisk = errors.New("raftgroup: the data directory is another node's")
	ErrIdentity  = errors.New("raftgroup: the identity of the data directory cannot be read")
	ErrLogLost   = errors.New("raftgroup: the catalog's log is not where it was: what this node has promised is lost with it; replace the node")
)

// readIdentity reads a directory's identity; nil if it has none.
func readIdentity(dir string) (*identity, error) {
	path := filepath.Join(dir, identityFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	id := &identity{}
	fault := func(line string) error { return fmt.Errorf("%w: %s says %q", ErrIdentity, path, line) }
	format := ""
	for line := range strings.Lines(string(b)) {
		key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		n, err := strconv.ParseUint(value, 10, 63)
		switch key {
		case "format":
			format = value
			err = nil
		case "node":
			id.node = meta.NodeID(n)
		case "copy":
			id.copy = uint32(n)
		case "run":
			id.run = n
		case "started":
			id.started = n == 1
		case "voter":
			id.voter = n == 1
		case "joined":
			id.joined = n == 1
		case "disk":
			id.disk, err = value, nil
		case "cluster":
			id.cluster, err = value, nil
		case "host":
			id.host, err = value, nil
		default:
			ok = false
		}
		if !ok || err != nil {
			return nil, fault(line)
		}
	}
	if format != "1" {
		return nil, fmt.Errorf("%w: %s has format %q, this program reads 1", ErrIdentity, path, format)
	}
	if id.node == 0 || id.disk == "" {
		return nil, fault(string(b))
	}
	return id, nil
}

// Identity is what a data directory says of itself to other nodes.
type Identity struct {
	Disk    string // 32 hexadecimal digits, made with the directory
	Cluster string // empty until the node has formed a cluster or joined one
}

// Identify reads who the directory of a node's group is, and makes it somebody if it is new. Nobody else may use it at the same time.
func Identify(dir string, node meta.NodeID) (Identity, error) {
	id, err := identityOf(dir, node)
	if err != nil {
		return Identity{}, err
	}
	return Identity{Disk: id.disk, Cluster: id.cluster}, nil
}

// identityOf is a directory's identity, which has to be that node's.
func identityOf(dir string, node meta.NodeID) (*identity, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, err
	}
	id, err := readIdentity(dir)
	switch {
	case err != nil:
		return nil, err
	case id == nil:
		id = newIdentity(node)
		return id, id.write(dir)
	case id.node != node:
		return nil, fmt.Errorf("%w: %s belongs to node %d, node.id is %d", ErrOtherDisk, dir, id.node, node)
	}
	return id, nil
}

func newIdentity(node meta.NodeID) *identity {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: the runtime ends the process first
	return &identity{node: node, disk: hex.EncodeToString(b[:])}
}

func (id *identity) replica() uint64 { return replicaOf(id.node, id.copy) }

// write puts the identity on stable storage.
func (id *identity) write(dir string) error {
	bit := func(b bool) int {
		if b {
			return 1
		}
		return 0
	}
	text := fmt.Sprintf("format 1\nnode %d\ndisk %s\ncluster %s\ncopy %d\nrun %d\nhost %s\nstarted %d\nvoter %d\njoined %d\n",
		id.node, id.disk, id.cluster, id.copy, id.run, id.host, bit(id.started), bit(id.voter), bit(id.joined))
	return writeSynced(dir, identityFile, []byte(text))
}

// writeSynced writes a file of a directory, all of it or nothing, and has it on stable storage when it returns.
func writeSynced(dir, name string, b []byte) error {
	path := filepath.Join(dir, name)
	f, err := os.OpenFile(path+".tmp", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// dragonboatFlag is a file in which Dragonboat says, among other things, on which machine it runs.
const dragonboatFlag = "dragonboat.ds"

// followHost moves Dragonboat's files to where it looks for them on this machine: below a folder with the machine's name. Under another name it
// would begin with an empty log, and vote a second time.
func (id *identity) followHost(dir string) error {
	host, err := os.Hostname()
	if err != nil || host == id.host {
		return err
	}
	if id.host != "" {
		old, now := filepath.Join(dir, id.host), filepath.Join(dir, host)
		if _, err := os.Stat(old); err == nil {
			if err := os.Rename(old, now); err != nil {
				return err
			}
		}
		if err := os.Remove(filepath.Join(dir, dragonboatFlag)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	id.host = host
	return nil
}
