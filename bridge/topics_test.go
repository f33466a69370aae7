package bridge

import "testing"

func TestRename(t *testing.T) {
	list := []Topic{
		{Filter: "up/#", Direction: Out, RemotePrefix: "site/"},
		{Filter: "#", Direction: Both, LocalPrefix: "l/", RemotePrefix: "r/"},
		{Direction: In, LocalPrefix: "here", RemotePrefix: "there"},
		{Filter: "up/late", Direction: Out, RemotePrefix: "never/"},
		{Filter: "+/x", Direction: Out},
	}
	out, err := newRoutes(list, Out)
	if err != nil {
		t.Fatal(err)
	}
	in, err := newRoutes(list, In)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		rs         routes
		topic, was string
	}{
		{out, "up/1", "site/up/1"},
		{out, "up", "site/up"},
		{out, "up/late", "site/up/late"}, // the first that fits
		{out, "l/a/b", "r/a/b"},
		{out, "l", ""}, // l/# matches it, but it has no prefix l/
		{out, "a/x", "a/x"},
		{out, "$SYS/x", ""},
		{out, "here", ""},
		{in, "r/a", "l/a"},
		{in, "there", "here"},
		{in, "up/1", ""},
	} {
		name, ok := tc.rs.rename(nil, []byte(tc.topic))
		if ok != (tc.was != "") || ok && string(name) != tc.was {
			t.Errorf("%s becomes %q, %v; want %q", tc.topic, name, ok, tc.was)
		}
	}
}

func TestBadTopics(t *testing.T) {
	for _, bad := range []Topic{
		{Filter: "a/#/b", Direction: Out},
		{Filter: "a", Direction: In, RemotePrefix: "+/"},
		{Filter: "a", Direction: Both, LocalPrefix: "#"},
		{Filter: "$share/g/a", Direction: In},
		{Filter: "a+", Direction: Both},
	} {
		_, errOut := newRoutes([]Topic{bad}, Out)
		_, errIn := newRoutes([]Topic{bad}, In)
		if errOut == nil && errIn == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}
