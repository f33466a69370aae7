package main

import (
	"strings"
	"testing"
)

func TestUnknownProfile(t *testing.T) {
	if err := run("time", t.TempDir(), 512, nil); err == nil || !strings.Contains(err.Error(), "allocs, block") {
		t.Errorf("%v", err)
	}
}
