package server

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/sluicemq/sluice/config"
)

// A copy that is whole takes the place of the node's data, wherever the exchange was cut before; one that is not is removed, and the data stay.
func TestInstallSeed(t *testing.T) {
	const old, fresh = "old", "new"
	for name, c := range map[string]struct {
		files []string // beside others
		want  string
	}{
		"nothing":                    {[]string{"journal/" + old}, old},
		"a copy that was cut":        {[]string{"journal/" + old, "seed/journal/" + fresh}, old},
		"a copy that is whole":       {[]string{"journal/" + old, "seed/journal/" + fresh, "seed/CLUSTER", seedMark}, fresh},
		"for a node without data":    {[]string{"seed/journal/" + fresh, seedMark}, fresh},
		"cut when the old was gone":  {[]string{"seed/journal/" + fresh, "seed/SHARDS", seedMark}, fresh},
		"cut when the new was there": {[]string{"journal/" + fresh, "seed/SHARDS", seedMark}, fresh},
		"cut when the mark was gone": {[]string{"journal/" + fresh, "seed/SHARDS"}, fresh},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config.Default()
			cfg.Node.Data = t.TempDir()
			cfg.Listeners.Cluster = config.Addrs{"127.0.0.1:7000"}
			for _, f := range c.files {
				path := filepath.Join(cfg.Node.Data, f)
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o750), os.WriteFile(path, nil, 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 { // once more changes nothing
				if err := installSeed(&cfg); err != nil {
					t.Fatal(err)
				}
				if list, err := os.ReadDir(filepath.Join(cfg.Node.Data, "journal")); err != nil || len(list) != 1 || list[0].Name() != c.want {
					t.Fatalf("the journal has %v, %v; want %s", list, err, c.want)
				}
				if list, err := os.ReadDir(cfg.Node.Data); err != nil || len(list) != 1 {
					t.Fatalf("left: %v, %v", list, err)
				}
			}
		})
	}
}
