package vfs

import (
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
)

// SectorSize is the unit in which Mem tears: a disk writes a sector in full or not at all.
const SectorSize = 512

// Mem is a file system in memory that knows what would be left after a power cut. Crash gives that; Mem itself goes on. What was
// written counts as durable after File.Sync (or Mapping.Sync, or a write to a Direct file), what happened to names after SyncDir.
type Mem struct {
	// OnSync, if set, is called before each operation that makes something durable takes effect, with the lock not held: a test
	// takes Crash there, and sees what was on its way. Set it before the first use.
	OnSync func(op, path string)

	mu struct {
		sync.Mutex
		names   map[string]*memNode // as seen now
		durable map[string]*memNode // as a power cut leaves it
		pending []memOp             // what differs, in order
		locks   map[string]bool
		free    int64
	}
}

// memNode is a file or a folder. Guarded by Mem.mu, but for the bytes of mappings.
type memNode struct {
	dir     bool
	data    []byte
	durable []byte
	dirty   map[int64]struct{} // sectors written since the last sync
	all     bool               // it was cut: any sector may differ
	maps    int                // writable mappings: any of their sectors may be dirty
	modTime time.Time
}

// memOp is a change of names that is not durable yet.
type memOp struct {
	dir     string
	removed string
	added   string
	node    *memNode
}

// NewMem makes an empty file system with room for a terabyte.
func NewMem() *Mem {
	m := &Mem{}
	root := &memNode{dir: true}
	m.mu.names = map[string]*memNode{".": root, "/": root}
	m.mu.durable = map[string]*memNode{".": root, "/": root}
	m.mu.locks = make(map[string]bool)
	m.mu.free = 1 << 40
	return m
}

// Cut says what a power cut leaves of what was not durable.
type Cut struct {
	// Rand decides sector by sector and name by name. nil: nothing of it is left.
	Rand *rand.Rand
	// Keep, if Rand is nil, leaves everything: the process died, the system lived.
	Keep bool
}

// Crash gives the file system as it is after a power cut now. Open files and locks stay behind with m.
func (m *Mem) Crash(c Cut) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := NewMem()
	names := make(map[string]*memNode, len(m.mu.durable))
	for p, node := range m.mu.durable {
		names[p] = node
	}
	left := 0
	switch {
	case c.Rand != nil:
		left = c.Rand.IntN(len(m.mu.pending) + 1)
	case c.Keep:
		left = len(m.mu.pending)
	}
	for _, op := range m.mu.pending[:left] {
		op.apply(names)
	}
	copies := make(map[*memNode]*memNode)
	for p, node := range names {
		cp := copies[node]
		if cp == nil {
			cp = node.crash(c)
			copies[node] = cp
		}
		n.mu.names[p], n.mu.durable[p] = cp, cp
	}
	return n
}

func (op *memOp) apply(names map[string]*memNode) {
	if op.removed != "" {
		delete(names, op.removed)
	}
	if op.added != "" {
		names[op.added] = op.node
	}
}

func (n *memNode) crash(c Cut) *memNode {
	cp := &memNode{dir: n.dir, modTime: n.modTime}
	if n.dir {
		return cp
	}
	switch {
	case c.Rand == nil && !c.Keep:
		cp.data = slices.Clone(n.durable)
	case c.Rand == nil:
		cp.data = slices.Clone(n.data)
	default:
		size := len(n.durable)
		if c.Rand.IntN(2) == 0 {
			size = len(n.data)
		}
		cp.data = make([]byte, size)
		copy(cp.data, n.durable)
		if c.Rand.IntN(4) == 0 {
			break
		}
		for off := 0; off < size; off += SectorSize {
			end := min(off+SectorSize, size, len(n.data))
			if off < end && c.Rand.IntN(2) == 0 {
				copy(cp.data[off:end], n.data[off:end])
			}
		}
	}
	cp.durable = slices.Clone(cp.data)
	return cp
}

// SetFree says how many bytes FreeSpace answers. Writes do not count against it: Fault does that.
func (m *Mem) SetFree(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.free = n
}

// Flip changes one bit of a file, in memory and on the disk.
func (m *Mem) Flip(name string, off int64, bit uint) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.fileLocked("flip", path.Clean(name))
	if err != nil {
		return err
	}
	if off >= int64(len(n.data)) {
		return io.ErrUnexpectedEOF
	}
	n.data[off] ^= 1 << (bit % 8)
	if off < int64(len(n.durable)) {
		n.durable[off] = n.data[off]
	}
	return nil
}

func (m *Mem) fileLocked(op, p string) (*memNode, error) {
	n := m.mu.names[p]
	if n == nil {
		return nil, &fs.PathError{Op: op, Path: p, Err: fs.ErrNotExist}
	}
	if n.dir {
		return nil, &fs.PathError{Op: op, Path: p, Err: fmt.Errorf("is a folder")}
	}
	return n, nil
}

func (m *Mem) changeLocked(op memOp) {
	op.apply(m.mu.names)
	m.mu.pending = append(m.mu.pending, op)
}

// Open opens a file.
func (m *Mem) Open(name string, flag Flag) (File, error) {
	p := path.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.fileLocked("open", p)
	switch {
	case err == nil:
	case m.mu.names[p] != nil || flag&Create == 0:
		return nil, err
	default:
		if d := m.mu.names[path.Dir(p)]; d == nil || !d.dir {
			return nil, &fs.PathError{Op: "open", Path: p, Err: fs.ErrNotExist}
		}
		n = &memNode{dirty: make(map[int64]struct{})}
		m.changeLocked(memOp{dir: path.Dir(p), added: p, node: n})
	}
	if n.dirty == nil {
		n.dirty = make(map[int64]struct{})
	}
	f := &memFile{m: m, n: n, path: p, write: flag&Write != 0}
	switch {
	case flag&Direct != 0:
		f.mode = DirectSync
	case flag&Unbuffered != 0:
		f.mode = DirectOnly
	}
	if flag&Truncate != 0 {
		n.data, n.all = nil, true
	}
	return f, nil
}

// Rename moves a name.
func (m *Mem) Rename(oldName, newName string) error {
	o, p := path.Clean(oldName), path.Clean(newName)
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.fileLocked("rename", o)
	if err != nil {
		return err
	}
	m.changeLocked(memOp{dir: path.Dir(p), removed: o, added: p, node: n})
	return nil
}

// Remove removes a file or an empty folder.
func (m *Mem) Remove(name string) error {
	p := path.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.mu.names[p]
	if n == nil {
		return &fs.PathError{Op: "remove", Path: p, Err: fs.ErrNotExist}
	}
	if n.dir && len(m.listLocked(p)) > 0 {
		return &fs.PathError{Op: "remove", Path: p, Err: fmt.Errorf("folder is not empty")}
	}
	m.changeLocked(memOp{dir: path.Dir(p), removed: p})
	return nil
}

// MkdirAll makes a folder and those above it.
func (m *Mem) MkdirAll(name string) error {
	p := path.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := 1; i <= len(p); i++ {
		if i < len(p) && p[i] != '/' {
			continue
		}
		n := m.mu.names[p[:i]]
		if n == nil {
			m.changeLocked(memOp{dir: path.Dir(p[:i]), added: p[:i], node: &memNode{dir: true}})
		} else if !n.dir {
			return &fs.PathError{Op: "mkdir", Path: p[:i], Err: fs.ErrExist}
		}
	}
	return nil
}

// List gives the names in a folder, sorted.
func (m *Mem) List(dir string) ([]string, error) {
	p := path.Clean(dir)
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := m.mu.names[p]; n == nil || !n.dir {
		return nil, &fs.PathError{Op: "list", Path: p, Err: fs.ErrNotExist}
	}
	return m.listLocked(p), nil
}

func (m *Mem) listLocked(p string) (names []string) {
	for name := range m.mu.names {
		if path.Dir(name) == p && name != p {
			names = append(names, path.Base(name))
		}
	}
	slices.Sort(names)
	return names
}

// Stat tells about a file.
func (m *Mem) Stat(name string) (Info, error) {
	p := path.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.mu.names[p]
	if n == nil {
		return Info{}, &fs.PathError{Op: "stat", Path: p, Err: fs.ErrNotExist}
	}
	return Info{Name: path.Base(p), Size: int64(len(n.data)), Dir: n.dir, ModTime: n.modTime}, nil
}

// SyncDir makes durable what happened to the names in a folder, and the folder itself.
func (m *Mem) SyncDir(dir string) error {
	p := path.Clean(dir)
	m.announce("syncdir", p)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.names[p] == nil {
		return &fs.PathError{Op: "sync", Path: p, Err: fs.ErrNotExist}
	}
	kept := m.mu.pending[:0]
	for _, op := range m.mu.pending {
		if op.dir == p || op.added == p || strings.HasPrefix(p, op.added+"/") && op.node != nil && op.node.dir {
			op.apply(m.mu.durable)
		} else {
			kept = append(kept, op)
		}
	}
	m.mu.pending = kept
	return nil
}

func (m *Mem) announce(op, p string) {
	if m.OnSync != nil {
		m.OnSync(op, p)
	}
}

// Lock takes a lock, which Crash does not take along.
func (m *Mem) Lock(name string) (io.Closer, error) {
	p := path.Clean(name)
	f, err := m.Open(p, Write|Create)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.locks[p] {
		return nil, &fs.PathError{Op: "lock", Path: p, Err: ErrLocked}
	}
	m.mu.locks[p] = true
	return &memLock{m: m, path: p, f: f}, nil
}

type memLock struct {
	m    *Mem
	path string
	f    File
}

func (l *memLock) Close() error {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	delete(l.m.mu.locks, l.path)
	return nil
}

// FreeSpace is what SetFree said.
func (m *Mem) FreeSpace(string) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.free, nil
}

type memFile struct {
	m     *Mem
	n     *memNode
	path  string
	write bool
	mode  DirectMode
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if off >= int64(len(f.n.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.n.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	if !f.write {
		return 0, &fs.PathError{Op: "write", Path: f.path, Err: fs.ErrPermission}
	}
	if f.mode.Aligned() && (off%BlockSize != 0 || len(p)%BlockSize != 0) {
		return 0, &fs.PathError{Op: "write", Path: f.path, Err: fmt.Errorf("direct write of %d bytes at %d is not aligned", len(p), off)}
	}
	f.m.mu.Lock()
	f.n.grow(off + int64(len(p)))
	copy(f.n.data[off:], p)
	for s := off / SectorSize; s*SectorSize < off+int64(len(p)); s++ {
		f.n.dirty[s] = struct{}{}
	}
	f.m.mu.Unlock()
	if f.mode == DirectSync {
		return len(p), f.Sync()
	}
	return len(p), nil
}

// grow makes the file at least size long. A mapped file keeps its memory: it must not grow.
func (n *memNode) grow(size int64) {
	if have := int64(len(n.data)); have < size {
		if int64(cap(n.data)) < size {
			n.data = slices.Grow(n.data, int(size-have))
		}
		n.data = n.data[:size]
		clear(n.data[have:])
	}
}

func (f *memFile) Sync() error {
	f.m.announce("sync", f.path)
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	n := f.n
	if len(n.durable) > len(n.data) {
		n.durable = n.durable[:len(n.data)]
	} else if k := len(n.durable); k < len(n.data) {
		n.durable = append(n.durable, n.data[k:]...)
	}
	if n.maps > 0 || n.all {
		copy(n.durable, n.data)
		n.all = false
	}
	for s := range n.dirty {
		off := s * SectorSize
		if off < int64(len(n.data)) {
			copy(n.durable[off:], n.data[off:min(off+SectorSize, int64(len(n.data)))])
		}
	}
	clear(n.dirty)
	return nil
}

func (f *memFile) Size() (int64, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	return int64(len(f.n.data)), nil
}

func (f *memFile) Truncate(size int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if int64(len(f.n.data)) > size {
		f.n.data, f.n.all = f.n.data[:size], true
	}
	f.n.grow(size)
	return nil
}

func (f *memFile) Allocate(off, n int64) error {
	_, err := f.WriteAt(make([]byte, n), off)
	return err
}

func (f *memFile) Direct() DirectMode { return f.mode }

func (f *memFile) Close() error { return nil }

func (f *memFile) Map(off, n int64, writable bool) (Mapping, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if off+n > int64(len(f.n.data)) {
		return nil, &fs.PathError{Op: "mmap", Path: f.path, Err: io.ErrUnexpectedEOF}
	}
	// As with a real map, a reader sees what others write. Who looks at what is being written has a race of his own.
	mp := &memMapping{f: f, off: off, b: f.n.data[off : off+n : off+n]}
	if writable {
		f.n.maps++
		mp.writable = true
	}
	return mp, nil
}

type memMapping struct {
	f        *memFile
	off      int64
	b        []byte
	writable bool
}

func (m *memMapping) Bytes() []byte { return m.b }

func (m *memMapping) Sync(off, n int64) error {
	m.f.m.announce("msync", m.f.path)
	m.f.m.mu.Lock()
	defer m.f.m.mu.Unlock()
	node := m.f.n
	if k := len(node.durable); k < len(node.data) {
		node.durable = append(node.durable, make([]byte, len(node.data)-k)...)
	}
	from := (m.off + off) / SectorSize * SectorSize
	copy(node.durable[from:], node.data[from:m.off+off+n])
	return nil
}

func (m *memMapping) Populate(int64, int64) error { return nil }

func (m *memMapping) Resident(int64, int64) bool { return true }

func (m *memMapping) Drop(int64, int64) {}

func (m *memMapping) Close() error {
	m.f.m.mu.Lock()
	defer m.f.m.mu.Unlock()
	if m.writable {
		m.f.n.maps--
		m.writable = false
	}
	m.b = nil
	return nil
}
