package mqtt

import (
	"testing"

	"github.com/sluicemq/sluice/internal/template"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// TestPropertyRuleAllocates: rules cost no memory for each message.
func TestPropertyRuleAllocates(t *testing.T) {
	value, err := template.Parse("%c/%u/%t")
	if err != nil {
		t.Fatal(err)
	}
	r := PropertyRule{Set: []PropertyTemplate{{[]byte("who"), value}}, Remove: []string{"gone"}}
	block := wire.AppendProperty(nil, wire.Property{ID: wire.PropContentType, Data: []byte("text")})
	for _, name := range []string{"gone", "who", "stays"} {
		block = wire.AppendUserProperty(block, []byte(name), []byte("x"))
	}
	x, topic := &propertyScratch{}, []byte("a/b")
	apply := func() { x.blocks[0] = r.apply(x.blocks[0][:0], block, topic, "c", "u", x) }
	apply()
	want := wire.AppendProperty(nil, wire.Property{ID: wire.PropContentType, Data: []byte("text")})
	want = wire.AppendUserProperty(wire.AppendUserProperty(want, []byte("stays"), []byte("x")), []byte("who"), []byte("c/u/a/b"))
	if string(x.blocks[0]) != string(want) {
		t.Errorf("%q, want %q", x.blocks[0], want)
	}
	if n := testing.AllocsPerRun(100, apply); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
