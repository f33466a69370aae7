package server

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/tier/backup"
)

func TestParseStore(t *testing.T) {
	t.Setenv("SLUICE_TEST_KEY", "hidden,and=odd")
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte("deep\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]map[string]string{
		"local:dir=/a b, ":                         {"dir": "/a b"},
		"hdfs:name_nodes=nn1:8020,nn2:8020,dir=/b": {"name_nodes": "nn1:8020,nn2:8020", "dir": "/b"},
		"s3:secret_key=env:SLUICE_TEST_KEY,access_key=k,session_token=file:" + file: {"secret_key": "hidden,and=odd", "access_key": "k", "session_token": "deep"},
	} {
		kind, got, err := parseStore(text)
		if before, _, _ := strings.Cut(text, ":"); err != nil || kind != before || !maps.Equal(got, want) {
			t.Errorf("%s: %s %v %v", text, kind, got, err)
		}
	}
	for _, text := range []string{"s3:s3cr3t", "s3:=s3cr3t", "s3:secret_key=s3cr3t", "s3:session_token=s3cr3t", "s3:bucket=b,secret_key=env:SLUICE_TEST_NONE"} {
		_, _, err := parseStore(text)
		if err == nil || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func FuzzParseStore(f *testing.F) {
	f.Add("local:dir=/x")
	f.Add("hdfs:name_nodes=a:1,b:2,dir=/b")
	f.Add("s3:,,=,secret_key=x")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "file:") {
			t.Skip()
		}
		_, settings, err := parseStore(text)
		if _, ok := settings[""]; ok || err != nil && settings != nil {
			t.Errorf("%q %v", settings, err)
		}
	})
}

// TestRestoreClaims: a directory is restored into by one alone, and never over what is there.
func TestRestoreClaims(t *testing.T) {
	fs := vfs.NewMem()
	at := func() *restorer {
		return &restorer{fs: fs, o: RestoreOptions{Data: "/data"}, backup: &backup.Reader{Manifest: backup.Manifest{Begin: backup.Begin{ID: "one"}}}}
	}
	if err := fs.MkdirAll("/data/lost+found"); err != nil {
		t.Fatal(err)
	}
	first := at()
	lock, err := first.begin()
	if err != nil {
		t.Fatal(err)
	}
	if err := fs.MkdirAll("/data/journal/wal"); err != nil {
		t.Fatal(err)
	}
	if _, err := at().begin(); !errors.Is(err, ErrDataInUse) {
		t.Errorf("a second one: %v", err)
	}
	if _, err := fs.Stat("/data/journal/wal"); err != nil {
		t.Errorf("the second one has removed what the first one writes: %v", err)
	}
	if err := lock.Close(); err != nil { // it was cut
		t.Fatal(err)
	}
	second := at()
	if lock, err = second.begin(); err != nil {
		t.Fatal(err)
	}
	if _, err := fs.Stat("/data/journal"); !vfs.IsNotExist(err) {
		t.Errorf("what was cut is still there: %v", err)
	}
	if err := errors.Join(second.end(new(Restored)), lock.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := at().begin(); !errors.Is(err, ErrDataInUse) {
		t.Errorf("over a node's data: %v", err)
	}
	// It had seen the mark of the one that ended meanwhile.
	if lock, err = fs.Lock("/data/" + restoringFile); err != nil {
		t.Fatal(err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := at().begin(); !errors.Is(err, ErrDataInUse) {
		t.Errorf("late: %v", err)
	}
	if _, err := fs.Stat("/data/" + restoredFile); err != nil {
		t.Error(err)
	}
	if _, err := fs.Stat("/data/" + restoringFile); !vfs.IsNotExist(err) {
		t.Errorf("the node does not start any more: %v", err)
	}
}

// TestRestoreCutAnywhere: the power goes at any sync while the directory is claimed; the next restore takes it.
func TestRestoreCutAnywhere(t *testing.T) {
	for at := 0; ; at++ {
		fs := vfs.NewMem()
		if err := fs.MkdirAll("/data"); err != nil {
			t.Fatal(err)
		}
		if err := fs.SyncDir("/"); err != nil {
			t.Fatal(err)
		}
		n := 0
		var crashed *vfs.Mem
		fs.OnSync = func(string, string) {
			if n == at {
				crashed = fs.Crash(vfs.Cut{})
			}
			n++
		}
		r := &restorer{fs: fs, o: RestoreOptions{Data: "/data"}, backup: &backup.Reader{Manifest: backup.Manifest{Begin: backup.Begin{ID: "one"}}}}
		lock, err := r.begin()
		if err := errors.Join(err, lock.Close()); err != nil {
			t.Fatal(err)
		}
		if crashed == nil {
			break
		}
		r.fs = crashed
		if lock, err = r.begin(); err != nil {
			t.Fatalf("after sync %d: %v", at, err)
		}
		_ = lock.Close()
	}
}

func TestCheckNode(t *testing.T) {
	good := func() *backup.Manifest {
		return &backup.Manifest{Begin: backup.Begin{Cluster: "MzejlftmyNBsN5322zp7fw"}, Shards: 64, Files: []backup.File{{Name: rowsFile}, {Name: boundsFile}}}
	}
	if err := checkNode(good()); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*backup.Manifest){
		"no shards":    func(m *backup.Manifest) { m.Shards = 0 },
		"many shards":  func(m *backup.Manifest) { m.Shards = 1 << 40 },
		"long cluster": func(m *backup.Manifest) { m.Cluster = strings.Repeat("x", 1<<20) },
		"two lines":    func(m *backup.Manifest) { m.Cluster = "a\nb" },
		"twice":        func(m *backup.Manifest) { m.Files = append(m.Files, m.Files[0]) },
		"no rows":      func(m *backup.Manifest) { m.Files = m.Files[1:] },
	} {
		m := good()
		spoil(m)
		if err := checkNode(m); !errors.Is(err, backup.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
