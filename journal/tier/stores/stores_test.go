package stores

import (
	"context"
	"strings"
	"testing"
)

func TestOpen(t *testing.T) {
	ctx := context.Background()
	s, err := Open(ctx, "local", map[string]string{"dir": t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	for _, kind := range append(Kinds(), "ftp") {
		_, err := Open(ctx, kind, map[string]string{"no_such_setting": "1"})
		if err == nil || !strings.Contains(err.Error(), kind) {
			t.Errorf("%s: %v", kind, err)
		}
	}
}
