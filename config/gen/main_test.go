package main

import (
	"flag"
	"os"
	"testing"
)

var update = flag.Bool("update", false, "write docs/configuration.md")

func TestConfigurationPageUpToDate(t *testing.T) {
	want, err := reference("../config.go")
	if err != nil {
		t.Fatal(err)
	}
	const page = "../../docs/configuration.md"
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != want {
		t.Errorf("%s is not what config/config.go says: run make generate", page)
	}
}
