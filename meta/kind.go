package meta

import (
	"errors"
	"fmt"
	"strings"
)

// Entry is one entry of the catalog as it is stored.
type Entry struct {
	Key   string // KIND/NAME
	Value []byte // nil: it is deleted. Never written to once given
}

// Errors of entries.
var (
	ErrKind    = errors.New("meta: unknown kind of entry")
	ErrVersion = errors.New("meta: unknown version of an entry")
	ErrEntry   = errors.New("meta: bad entry")
)

// kindID numbers the kinds in memory; their names are on disk.
type kindID int

const (
	kindUser kindID = iota
	kindBinding
	kindACL
	kindQuota
	kindSecret
	kindNode
	kindShard
	kindCluster
	kindBan
	kindTenant
	kindCount
)

// kinds are the kinds of entries: what a key begins with, and how a value that is not deleted is read. decode checks what a program relies
// on later, gets what is behind the version, of 1 up to the kind's, and answers a pointer: two values are the same entry, unchanged, if they are the same pointer.
var kinds = [kindCount]struct {
	name    string
	version byte
	decode  func(name string, d *decoder) (any, error)
}{
	kindUser:    {"user", userTenant, decodeUser},
	kindBinding: {"binding", 1, decodeBinding},
	kindACL:     {"acl", aclTenant, decodeACL},
	kindQuota:   {"quota", quotaTenant, decodeQuota},
	kindSecret:  {"secret", 1, decodeSecret},
	kindNode:    {"node", nodeMQTT, decodeNode},
	kindShard:   {"shard", shardHome, decodeShard},
	kindCluster: {"cluster", clusterReplicas, decodeCluster},
	kindBan:     {"ban", 1, decodeBan},
	kindTenant:  {"tenant", 1, decodeTenant},
}

// key is the key of an entry.
func (k kindID) key(name string) string { return kinds[k].name + "/" + name }

// begin appends what the kind's values begin with.
func (k kindID) begin(dst []byte) []byte { return append(dst, kinds[k].version) }

// beginFor is begin for kinds whose last version says nothing more than the tenant: what is the default tenant's is written as it was before there were others.
func (k kindID) beginFor(dst []byte, tenant uint32) []byte {
	if tenant == 0 {
		return append(dst, kinds[k].version-1)
	}
	return k.begin(dst)
}

// split finds the kind of a key.
func split(key string) (k kindID, name string, err error) {
	kind, name, ok := strings.Cut(key, "/")
	for i := range kinds {
		if ok && kinds[i].name == kind && name != "" {
			return kindID(i), name, nil
		}
	}
	return 0, "", fmt.Errorf("%w: %q", ErrKind, key)
}

// decode gives what an entry means, nil if it is deleted.
func (e *Entry) decode() (k kindID, name string, v any, err error) {
	if k, name, err = split(e.Key); err != nil || e.Value == nil {
		return k, name, nil, err
	}
	d := decoder{b: e.Value}
	if d.version = d.byte(); d.version == 0 || d.version > kinds[k].version || d.bad {
		return k, name, nil, fmt.Errorf("%w: %s %q has version %d, and this program reads 1 to %d", ErrVersion, kinds[k].name, name, d.version, kinds[k].version)
	}
	if v, err = kinds[k].decode(name, &d); err == nil {
		err = d.err()
	}
	if err != nil {
		return k, name, nil, fmt.Errorf("%w: %s %q: %w", ErrEntry, kinds[k].name, name, err)
	}
	return k, name, v, nil
}

// Check says whether this program understands an entry: ErrKind, ErrVersion or ErrEntry if not.
func (e *Entry) Check() error {
	_, _, _, err := e.decode()
	return err
}

// ClassCount is how many classes there are.
const ClassCount = 6

// classes are the kinds whose entries are changed looking at each other: who changes one has seen all of its class. Bans are in that of quotas, and
// tenants in that of users, since states on disk have a place for so many classes.
var classes = [kindCount]uint8{kindUser: 0, kindBinding: 1, kindACL: 2, kindQuota: 3, kindSecret: 4, kindNode: 5, kindShard: 5, kindCluster: 5, kindBan: 3, kindTenant: 0}

// Class numbers the class of an entry's kind. A group that is more than one node refuses a change that was made without having seen the last
// one of its class. The numbers are on disk.
func (e *Entry) Class() (int, error) {
	k, _, err := split(e.Key)
	if err != nil {
		return 0, err
	}
	return int(classes[k]), nil
}
