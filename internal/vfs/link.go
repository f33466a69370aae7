package vfs

import (
	"io/fs"
	"os"
	"path"
)

// LinkFS is an FS that can give a file a second name, if that is free: the way to make a whole file appear without replacing another.
type LinkFS interface {
	FS
	// Link gives oldPath's file the name newPath too; fs.ErrExist if there is one already. Like Rename it needs a SyncDir.
	Link(oldPath, newPath string) error
}

// OpLink is Link, for Fault.
const OpLink OpKind = "link"

// Link is link(2).
func (OS) Link(oldPath, newPath string) error { return os.Link(oldPath, newPath) }

// Link gives a file a second name.
func (m *Mem) Link(oldName, newName string) error {
	o, p := path.Clean(oldName), path.Clean(newName)
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.fileLocked("link", o)
	if err != nil {
		return err
	}
	if m.mu.names[p] != nil {
		return &fs.PathError{Op: "link", Path: p, Err: fs.ErrExist}
	}
	if d := m.mu.names[path.Dir(p)]; d == nil || !d.dir {
		return &fs.PathError{Op: "link", Path: p, Err: fs.ErrNotExist}
	}
	m.changeLocked(memOp{dir: path.Dir(p), added: p, node: n})
	return nil
}

// Link gives a file a second name. The file system below must be a LinkFS.
func (f *Fault) Link(oldPath, newPath string) error {
	v := f.judge(OpLink, newPath, 0, 0)
	return v.do(func() error {
		below, ok := f.FS.(LinkFS)
		if !ok {
			return &fs.PathError{Op: "link", Path: newPath, Err: fs.ErrInvalid}
		}
		return below.Link(oldPath, newPath)
	})
}
