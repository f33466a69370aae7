package raftgroup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/sluicemq/sluice/meta"
)

// Bounds of the catalog, those that a lone node has too (docs/format/catalog.md). They are decided when a command is applied, so they are the
// same on all nodes: who changes one needs another version of commands.
const (
	keyMax     = 4 << 10
	valueMax   = 64 << 10
	commandMax = 1 << 20 // bytes of keys and values in one command
	entriesMax = 1_000_000
	bytesMax   = 256 << 20
)

// commandVersion is the version of commands that this program writes, and the highest that it reads.
const commandVersion = 1

// Results of a command.
const (
	resultMade     = 1
	resultConflict = 2 // its class was changed since base
	resultEntries  = 3 // there would be too many entries
	resultBytes    = 4
	resultStale    = 5 // a later one of its sender is in the log before it: nobody waits for this one
)

// command is one change of the catalog as it lies in the log (docs/format/raft.md).
type command struct {
	// Who has sent it, in which run, and as which: what comes twice is made once.
	replica, run, seq uint64

	base    uint64 // index of the last command that the proposer had seen
	changes []meta.Entry
}

// appendCommand encodes a command.
func appendCommand(dst []byte, c *command) []byte {
	dst = append(dst, commandVersion)
	for _, v := range []uint64{c.replica, c.run, c.seq, c.base} {
		dst = binary.AppendUvarint(dst, v)
	}
	dst = binary.AppendUvarint(dst, uint64(len(c.changes)))
	for i := range c.changes {
		dst = appendEntry(dst, &c.changes[i])
	}
	return dst
}

func appendEntry(dst []byte, e *meta.Entry) []byte {
	dst = append(binary.AppendUvarint(dst, uint64(len(e.Key))), e.Key...)
	if e.Value == nil {
		return binary.AppendUvarint(dst, 0)
	}
	return append(binary.AppendUvarint(dst, uint64(len(e.Value))+1), e.Value...)
}

// Errors of commands: what an older program says of a newer one's, and of what nobody writes.
var (
	ErrCommandVersion = errors.New("raftgroup: a command of a version that this program does not know")
	errCommand        = errors.New("raftgroup: a command that cannot be read")
)

// decodeCommand reads a command of a version up to reads. What it gives is a copy.
func decodeCommand(b []byte, reads byte) (c command, err error) {
	if len(b) == 0 {
		return c, errCommand
	}
	if b[0] == 0 || b[0] > reads {
		return c, fmt.Errorf("%w: it has version %d, this program reads %d", ErrCommandVersion, b[0], reads)
	}
	r := reader{b: b[1:]}
	for _, v := range []*uint64{&c.replica, &c.run, &c.seq, &c.base} {
		*v = r.uvarint()
	}
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		return c, errCommand
	}
	for range n {
		e := r.entry()
		if r.bad {
			break
		}
		c.changes = append(c.changes, e)
	}
	if r.bad || len(r.b) > 0 {
		return c, errCommand
	}
	return c, nil
}

// checkChanges says what is wrong with changes before they are proposed.
func checkChanges(changes []meta.Entry) error {
	size := 0
	for i := range changes {
		e := &changes[i]
		if err := e.Check(); err != nil {
			return err
		}
		if len(e.Key) > keyMax || len(e.Value) > valueMax {
			return fmt.Errorf("%w: an entry has a key of %d bytes and a value of %d; want at most %d and %d", ErrBounds, len(e.Key), len(e.Value), keyMax, valueMax)
		}
		size += len(e.Key) + len(e.Value)
	}
	if size > commandMax {
		return fmt.Errorf("%w: one change has at most %d bytes, found %d", ErrBounds, commandMax, size)
	}
	return nil
}

// reader reads numbers and entries. After a fault it answers zeros.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) bytes(n, limit uint64) []byte {
	if n > limit || n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) string(limit uint64) string { return string(r.bytes(r.uvarint(), limit)) }

func (r *reader) entry() (e meta.Entry) {
	e.Key = r.string(keyMax)
	if n := r.uvarint(); n > 0 {
		if e.Value = slices.Clone(r.bytes(n-1, valueMax)); e.Value == nil {
			e.Value = []byte{}
		}
	}
	return e
}
