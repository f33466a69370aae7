// Package hdfstier is the Store that is a directory of HDFS. It owns the clients and their connections, and knows no format. It alone
// imports colinmarc/hdfs.
//
// That client's rename replaces what is there, and HDFS has no link, so that a file alone could not be put where nothing may be replaced. But
// a folder that is not empty is never replaced: an object is a folder, its name with a ~ behind it, that holds one file, data. Both are made
// under .tmp; Put with IfAbsent renames the folder, which fails if there is one, and Put renames the file into the folder that is there. Each is one step of the
// name node. Delete removes the file, then the folder if it is still empty.
package hdfstier

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/colinmarc/hdfs/v2"

	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/internal/pace"
	"github.com/sluicemq/sluice/journal/tier"
)

const (
	kind     = "hdfs"
	tmpDir   = ".tmp"
	dataFile = "/data"
	mark     = "~" // behind an object's name; no name has one
	bufBytes = 256 << 10
	// closeFor bounds how long a file may take until the data nodes have told the name node of its blocks.
	closeFor = time.Minute
	// cleanFor bounds what is done for a Put that has failed already.
	cleanFor = 2 * time.Second
)

// replicating is how long is waited for them between two looks.
var replicating = pace.Backoff{First: 10 * time.Millisecond, Most: time.Second}

// Store is the directory.
type Store struct {
	o     Options
	p     pool
	asked tier.Requests
}

func (s *Store) path(name string) string { return s.o.Dir + "/" + name }

func (s *Store) object(name string) string { return s.path(name) + mark }

func (s *Store) wrap(ctx context.Context, op, name string, err error) error {
	return tier.Wrap(ctx, kind, op, name, kindOf(err), err)
}

// Close ends the connections.
func (s *Store) Close() error {
	s.p.close()
	return nil
}

// Put writes a file. See tier.Store.
func (s *Store) Put(ctx context.Context, name string, r io.Reader, size int64, o tier.PutOptions) error {
	if err := errors.Join(tier.CheckName(name), ctx.Err()); err != nil {
		return s.wrap(ctx, "put", name, err)
	}
	src := tier.Exactly(ctx, r, size)
	tmp := s.path(tmpDir + "/" + unique())
	err := s.p.with(ctx, func(ses *session) error {
		c := ses.ask()
		if o.IfAbsent {
			// The rename decides; this spares the bytes where the answer is known.
			if _, err := c.stat(s.object(name) + dataFile); err == nil {
				return tier.ErrExists
			}
		}
		if err := s.write(ctx, ses, tmp, src); err != nil {
			return err
		}
		if err := c.mkdirAll(path.Dir(s.path(name))); err != nil {
			return err
		}
		if o.IfAbsent {
			return publishOnce(c, tmp, s.object(name))
		}
		return publish(c, tmp, s.object(name))
	})
	if err == nil {
		return nil
	}
	if !errors.Is(err, tier.ErrExists) || src.Err() != nil || ctx.Err() != nil {
		s.clean(ctx, tmp)
	}
	if bad := src.Err(); bad != nil {
		err = bad
	}
	if errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("%w: %w", tier.ErrUnavailable, err) // somebody has removed what was being made
	}
	return s.wrap(ctx, "put", name, err)
}

// clean removes what a failed Put has made, if it can be done at once; Sweep does otherwise.
func (s *Store) clean(ctx context.Context, tmp string) {
	cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanFor)
	defer cancel()
	_ = s.p.do(cctx, func(c asking) error { return c.removeAll(tmp) })
}

func unique() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// write makes the folder tmp with its file.
func (s *Store) write(ctx context.Context, ses *session, tmp string, src *tier.ExactReader) error {
	c := ses.ask()
	if err := c.mkdirAll(tmp); err != nil {
		return err
	}
	f, err := c.create(tmp+dataFile, s.o.Replication, s.o.BlockBytes)
	if err != nil {
		return err
	}
	// The source's own end is not enough: it may have failed with an error that looks like one.
	if _, err = io.CopyBuffer(&writer{f, ses}, src, make([]byte, bufBytes)); err == nil {
		err = src.Err()
	}
	if err != nil {
		// The client's goroutines end with Close alone; without connections it makes no file of what is there.
		ses.kill()
		_ = f.Close()
		return err
	}
	for n, from := 1, time.Now(); ; n++ {
		err := c.end(f)
		if !hdfs.IsErrReplicating(err) || time.Since(from) > closeFor {
			return err
		}
		if err := pace.Sleep(ctx, clock.Real{}, replicating.Wait(n)); err != nil {
			return err
		}
	}
}

// writer stops when a connection has failed, of which the client's own Write does not tell: see dataConn.
type writer struct {
	f   *hdfs.FileWriter
	ses *session
}

func (w *writer) Write(p []byte) (int, error) {
	if w.ses.broken() {
		return 0, fmt.Errorf("%w: a data node's connection was cut", tier.ErrUnavailable)
	}
	return w.f.Write(p)
}

// publishOnce gives the folder tmp its name, which must be free.
func publishOnce(c asking, tmp, object string) error {
	err := c.rename(tmp, object)
	if err == nil || !isRemote(err) {
		return err
	}
	if _, serr := c.stat(object + dataFile); serr != nil {
		return err
	}
	if rerr := c.removeAll(tmp); rerr != nil {
		return rerr
	}
	return tier.ErrExists
}

// publish gives what is in the folder tmp its name: into the object's folder if it is there, or as that folder. Between the two others may
// make the folder, or remove it.
func publish(c asking, tmp, object string) error {
	var err error
	for range 10 {
		if err = c.rename(tmp+dataFile, object+dataFile); err == nil {
			_ = c.remove(tmp) // empty; swept if it stays
			return nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err = c.rename(tmp, object); err == nil || !isRemote(err) {
			return err
		}
	}
	return fmt.Errorf("%w: others put and delete it all the time: %w", tier.ErrUnavailable, err)
}

// Get opens a file. See tier.Store.
func (s *Store) Get(ctx context.Context, name string, rng tier.Range) (io.ReadCloser, tier.Info, error) {
	if err := errors.Join(tier.CheckName(name), ctx.Err()); err != nil {
		return nil, tier.Info{}, s.wrap(ctx, "get", name, err)
	}
	b := &body{ctx: ctx, s: s, name: name}
	var info tier.Info
	// The session stays with the reader.
	ses, err := s.p.take(ctx)
	if err == nil {
		info, err = b.open(ses, s.object(name)+dataFile, rng)
		if err != nil {
			ses.release(err)
		}
	}
	if err != nil {
		return nil, tier.Info{}, s.wrap(ctx, "get", name, err)
	}
	info.Name = name
	return b, info, nil
}

// body reads a range of a file.
type body struct {
	ctx  context.Context
	s    *Store
	ses  *session // nil: closed
	f    *hdfs.FileReader
	name string
	left int64
	err  error
}

func (b *body) open(ses *session, p string, rng tier.Range) (tier.Info, error) {
	f, err := ses.ask().open(p)
	if err != nil {
		return tier.Info{}, err
	}
	size := f.Stat().Size()
	off, n, err := rng.In(size)
	if err == nil {
		_, err = f.Seek(off, io.SeekStart)
	}
	b.ses, b.f, b.left = ses, f, n
	return tier.Info{Size: size, ModTime: f.Stat().ModTime()}, err
}

func (b *body) Read(p []byte) (int, error) {
	if b.err == nil {
		b.err = b.ctx.Err()
	}
	if b.err != nil {
		return 0, b.s.wrap(b.ctx, "get", b.name, b.err)
	}
	if b.left == 0 {
		return 0, io.EOF
	}
	n, err := b.f.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	if n > 0 || err == nil {
		return n, nil
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	b.err = err
	return 0, b.s.wrap(b.ctx, "get", b.name, err)
}

func (b *body) Close() error {
	if b.ses == nil {
		return nil
	}
	// Closed before its end, the data node's connection is given up: no error of the reader's.
	_ = b.f.Close()
	b.ses.release(b.err)
	b.ses = nil
	return nil
}

// Stat looks at a file. See tier.Store.
func (s *Store) Stat(ctx context.Context, name string) (info tier.Info, err error) {
	if err := errors.Join(tier.CheckName(name), ctx.Err()); err != nil {
		return info, s.wrap(ctx, "stat", name, err)
	}
	err = s.p.do(ctx, func(c asking) error {
		info, err = s.stat(c, name)
		return err
	})
	return info, s.wrap(ctx, "stat", name, err)
}

func (s *Store) stat(c asking, name string) (tier.Info, error) {
	fi, err := c.stat(s.object(name) + dataFile)
	if err != nil {
		return tier.Info{}, err
	}
	return tier.Info{Name: name, Size: fi.Size(), ModTime: fi.ModTime()}, nil
}

// List walks the folders; each object that it gives is one question more to the name node. See tier.Store.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) (page []tier.Info, more bool, err error) {
	err = s.p.do(ctx, func(c asking) error {
		page, more, err = tier.Walk(ctx, prefix, after, limit, func(folder string) ([]tier.Entry, error) { return s.entries(c, folder) })
		return err
	})
	if err != nil {
		return nil, false, s.wrap(ctx, "list", prefix, err)
	}
	return page, more, nil
}

func (s *Store) entries(c asking, folder string) ([]tier.Entry, error) {
	if f := strings.TrimSuffix(folder, "/"); f != "" && tier.CheckName(f) != nil {
		return nil, nil // no object's
	}
	infos, err := c.readDir(path.Clean(s.path(folder)))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := make([]tier.Entry, 0, len(infos))
	for _, fi := range infos {
		name, object := strings.CutSuffix(fi.Name(), mark)
		if !fi.IsDir() || tier.CheckName(name) != nil {
			continue
		}
		out = append(out, tier.Entry{Name: name, Folder: !object, Info: func() (tier.Info, error) {
			info, err := s.stat(c, folder+name)
			if errors.Is(err, os.ErrNotExist) {
				err = tier.ErrNotFound
			}
			return info, err
		}})
	}
	return out, nil
}

// Delete removes a file, and its folder if nobody has put another in. See tier.Store.
func (s *Store) Delete(ctx context.Context, name string) error {
	err := errors.Join(tier.CheckName(name), ctx.Err())
	if err == nil {
		err = s.p.do(ctx, func(c asking) error {
			err := c.remove(s.object(name) + dataFile)
			if err == nil || errors.Is(err, os.ErrNotExist) {
				_ = c.remove(s.object(name)) // an empty folder is no object
				return nil
			}
			return err
		})
	}
	return s.wrap(ctx, "delete", name, err)
}

// Sweep removes folders of Puts that have failed, if they are older than age. See tier.Sweeper.
func (s *Store) Sweep(ctx context.Context, age time.Duration) (n int, err error) {
	before := time.Now().Add(-age)
	err = s.p.do(ctx, func(c asking) error {
		infos, err := c.readDir(s.path(tmpDir))
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, fi := range infos {
			if !fi.ModTime().Before(before) {
				continue
			}
			if err := c.removeAll(s.path(tmpDir + "/" + fi.Name())); err != nil {
				return err
			}
			n++
		}
		return nil
	})
	return n, s.wrap(ctx, "sweep", tmpDir, err)
}
