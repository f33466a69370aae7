package localtier

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/tiertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func opener(fsys vfs.LinkFS) func(testing.TB) tier.Store {
	dirs := map[string]string{}
	return func(t testing.TB) tier.Store {
		t.Helper()
		dir := dirs[t.Name()]
		if dir == "" {
			dir = "/tier"
			if fsys == nil {
				dir = filepath.Join(t.TempDir(), "tier")
			} else if err := vfs.RemoveAll(fsys, dir); err != nil {
				t.Fatal(err)
			}
			dirs[t.Name()] = dir
		}
		s, err := Open(context.Background(), Options{Dir: dir, FS: fsys})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
}

func TestContract(t *testing.T) { tiertest.Run(t, tiertest.Env{Open: opener(nil), Many: 1100}) }

// The memory of a Put is in the file system itself here.
func TestContractInMemory(t *testing.T) {
	tiertest.Run(t, tiertest.Env{Open: opener(vfs.NewMem()), Memory: 1 << 30, NoTimes: true, Many: 300})
}

// cached is a file system that cannot write past the page cache.
type cached struct{ vfs.LinkFS }

func (c cached) Open(path string, flag vfs.Flag) (vfs.File, error) {
	return c.LinkFS.Open(path, flag&^vfs.Unbuffered)
}

// TestContractCached: it is a store all the same.
func TestContractCached(t *testing.T) {
	tiertest.Run(t, tiertest.Env{Open: opener(cached{vfs.NewMem()}), Memory: 1 << 30, NoTimes: true, Many: 10})
}

func TestSettings(t *testing.T) {
	ctx := context.Background()
	if _, err := FromSettings(ctx, tier.NewSettings(nil)); err == nil {
		t.Error("opened without a directory")
	}
	if _, err := FromSettings(ctx, tier.NewSettings(map[string]string{"dir": t.TempDir(), "bucket": "b"})); err == nil {
		t.Error("opened with an unknown setting")
	}
	s, err := FromSettings(ctx, tier.NewSettings(map[string]string{"dir": t.TempDir() + "/a/b"}))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Put(ctx, "x/y", bytes.NewReader([]byte("z")), 1, tier.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

func readAll(s *Store, name string) ([]byte, error) {
	body, _, err := s.Get(context.Background(), name, tier.Range{})
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(body)
	return b, errors.Join(err, body.Close())
}

// TestCrash cuts the power before each operation that makes something durable: an object whose Put had returned is there, the one on its way is
// whole or absent, one that was deleted stays away.
func TestCrash(t *testing.T) {
	ctx := context.Background()
	rnd := rand.New(rand.NewPCG(1, 2))
	content := func(name string) []byte { return bytes.Repeat([]byte(name+"."), 500) }
	names := []string{"t/0/a", "t/0/b", "t/1/a", "u/a"}
	mem := vfs.NewMem()
	acked := map[string]bool{}
	busy, crashes := "", 0
	mem.OnSync = func(op, path string) {
		for _, cut := range []vfs.Cut{{}, {Rand: rnd}, {Rand: rnd}, {Keep: true}} {
			crashes++
			after, err := Open(ctx, Options{Dir: "/a/tier", FS: mem.Crash(cut)})
			if err != nil {
				t.Errorf("%s %s: %v", op, path, err)
				continue
			}
			for _, name := range names {
				b, err := readAll(after, name)
				switch {
				case err == nil && !bytes.Equal(b, content(name)):
					t.Errorf("%s %s: %s has %d bytes", op, path, name, len(b))
				case err == nil && !acked[name] && name != busy:
					t.Errorf("%s %s: %s is back", op, path, name)
				case errors.Is(err, tier.ErrNotFound):
					if acked[name] && name != busy {
						t.Errorf("%s %s: %s is lost", op, path, name)
					}
				case err != nil:
					t.Errorf("%s %s: %s: %v", op, path, name, err)
				}
			}
			page, _, err := after.List(ctx, "", "", 0)
			if err != nil || slices.ContainsFunc(page, func(i tier.Info) bool { return !slices.Contains(names, i.Name) }) {
				t.Errorf("%s %s: listed %v, %v", op, path, page, err)
			}
			if n, err := after.Sweep(ctx, -time.Hour); err != nil || n > 24 {
				t.Errorf("%s %s: swept %d, %v", op, path, n, err)
			}
		}
	}
	s, err := Open(ctx, Options{Dir: "/a/tier", FS: mem})
	if err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		for i, name := range names {
			busy = name
			b := content(name)
			if err := s.Put(ctx, name, bytes.NewReader(b), int64(len(b)), tier.PutOptions{IfAbsent: (i+round)%2 == 0}); err != nil {
				t.Fatal(err)
			}
			acked[name], busy = true, ""
		}
		for _, name := range names {
			busy = name
			if err := s.Delete(ctx, name); err != nil {
				t.Fatal(err)
			}
			acked[name], busy = false, ""
		}
	}
	if crashes < 100 {
		t.Errorf("%d crashes tried", crashes)
	}
}

// TestExistsIsDurable: who is told that an object exists can rely on it over a power cut, though somebody else has put it and not come to the end.
func TestExistsIsDurable(t *testing.T) {
	ctx := context.Background()
	mem := vfs.NewMem()
	s, err := Open(ctx, Options{Dir: "/tier", FS: mem})
	if err != nil {
		t.Fatal(err)
	}
	put := func() error {
		return s.Put(ctx, "a/b", bytes.NewReader([]byte("x")), 1, tier.PutOptions{IfAbsent: true})
	}
	asked := false
	mem.OnSync = func(op, path string) {
		if op != "syncdir" || path != "/tier/a" || asked {
			return
		}
		if _, err := s.Stat(ctx, "a/b"); err != nil {
			return // the folder alone
		}
		asked = true
		if err := put(); !errors.Is(err, tier.ErrExists) {
			t.Errorf("a second put: %v", err)
		}
		after, err := Open(ctx, Options{Dir: "/tier", FS: mem.Crash(vfs.Cut{})})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := after.Stat(ctx, "a/b"); err != nil {
			t.Errorf("told that it exists, and after a power cut: %v", err)
		}
	}
	if err := put(); err != nil || !asked {
		t.Fatal(err, asked)
	}
}

// TestDiskErrors has each operation fail in turn: an error, of its kind, and nothing half; once the disk is well the store goes on.
func TestDiskErrors(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct{ disk, want error }{{syscall.EIO, tier.ErrUnavailable}, {syscall.ENOSPC, tier.ErrFull}, {syscall.EACCES, tier.ErrDenied}} {
		failed := 0
		for nth := range 40 {
			f := &vfs.Fault{FS: vfs.NewMem()}
			s, err := Open(ctx, Options{Dir: "/tier", FS: f})
			if err != nil {
				t.Fatal(err)
			}
			f.Judge = vfs.FailNth(nth, c.disk, vfs.OpOpen, vfs.OpWrite, vfs.OpSync, vfs.OpRename, vfs.OpLink, vfs.OpSyncDir, vfs.OpMkdir)
			b := bytes.Repeat([]byte("x"), 600<<10)
			err = s.Put(ctx, "t/a", bytes.NewReader(b), int64(len(b)), tier.PutOptions{IfAbsent: nth%2 == 0})
			f.Judge = nil
			if err != nil {
				failed++
				if !errors.Is(err, c.want) {
					t.Errorf("operation %d fails with %v: %v", nth, c.disk, err)
				}
			}
			got, rerr := readAll(s, "t/a")
			if rerr == nil && !bytes.Equal(got, b) || rerr != nil && (!errors.Is(rerr, tier.ErrNotFound) || err == nil) {
				t.Errorf("operation %d: %d bytes, %v after %v", nth, len(got), rerr, err)
			}
			if err := s.Put(ctx, "t/a", bytes.NewReader(b), int64(len(b)), tier.PutOptions{}); err != nil {
				t.Errorf("with a disk that is well: %v", err)
			}
		}
		if failed < 8 {
			t.Errorf("%d operations failed", failed)
		}
	}
}

// TestCutFile: a file that was cut below the store is an error, never a short read.
func TestCutFile(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	s, err := Open(ctx, Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Put(ctx, "a", bytes.NewReader(make([]byte, 1000)), 1000, tier.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	body, _, err := s.Get(ctx, "a", tier.Range{})
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if err := os.Truncate(dir+"/a", 10); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(body); err == nil {
		t.Errorf("%d bytes of 1000 and no error", len(b))
	}
}

func TestSweep(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	s, err := Open(ctx, Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"old", "new"} {
		if err := os.WriteFile(dir+"/.tmp/"+name, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	past := time.Now().Add(-48 * time.Hour)
	if err := os.Chtimes(dir+"/.tmp/old", past, past); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Sweep(ctx, 24*time.Hour); n != 1 || err != nil {
		t.Errorf("swept %d, %v", n, err)
	}
	if _, err := os.Stat(dir + "/.tmp/new"); err != nil {
		t.Error(err)
	}
}

// TestRequestsCounted: files, and the folders and files that a list looks at.
func TestRequestsCounted(t *testing.T) {
	ctx := context.Background()
	s, err := Open(ctx, Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a/1", "a/2", "b/1"} {
		if err := s.Put(ctx, name, bytes.NewReader([]byte("x")), 1, tier.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	body, _, err := s.Get(ctx, "a/1", tier.Range{})
	_, serr := s.Stat(ctx, "a/2")
	if err = errors.Join(err, serr, body.Close()); err != nil {
		t.Fatal(err)
	}
	if page, _, err := s.List(ctx, "", "", 0); err != nil || len(page) != 3 {
		t.Fatal(page, err)
	}
	if _, err := s.Sweep(ctx, time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(ctx, "b/1"); err != nil {
		t.Fatal(err)
	}
	var got [tier.Ops]int64
	for op := range got {
		got[op] = s.Requests().Load(tier.Op(op))
	}
	// The list reads the directory and its two folders, and looks at all five; .tmp, which has no object's name, alone is the sweep's.
	if want := [tier.Ops]int64{tier.OpPut: 3, tier.OpGet: 1, tier.OpStat: 1 + 5, tier.OpList: 3 + 1, tier.OpDelete: 1}; got != want {
		t.Errorf("counted %v, not %v", got, want)
	}
}
