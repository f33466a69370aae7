package measure

import (
	"strings"
	"testing"
)

// Pages of shared mappings, which are the log's, are not the node's memory.
func TestSmaps(t *testing.T) {
	private, shared, err := parseSmaps(strings.NewReader(`00400000-00452000 r-xp 00000000 08:02 173521 /usr/bin/x
Size:                328 kB
Rss:                 100 kB
7f00-7f20 rw-s 00000000 08:02 9 /data/log/1 (deleted)
Rss:                4000 kB
VmFlags: rd wr
c000000000-c000400000 rw-p 00000000 00:00 0
Rss:                  20 kB
`), "x")
	if err != nil || private != 120*1024 || shared != 4000*1024 {
		t.Errorf("%v private, %v shared, %v", private, shared, err)
	}
	for _, text := range []string{"", "Rss: many kB\n"} {
		if _, _, err := parseSmaps(strings.NewReader(text), "x"); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}
