package wire

import (
	"bytes"
	"testing"
)

// TestSetForward: what is set is what is forwarded, whatever the packet had and wherever it had it.
func TestSetForward(t *testing.T) {
	for name, props := range map[string][]byte{"none": nil, "alias alone": {0x23, 0, 1}, "split": {0x26, 0, 1, 'a', 0, 0, 0x23, 0, 1, 0x26, 0, 1, 'b', 0, 0, 0x02, 0, 0, 0, 9}} {
		body := append([]byte{0, 1, 't', byte(len(props))}, props...)
		p, err := DecodePublish(0, append(body, 'x'), V5)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if p.Props.HasForward() != (name == "split") {
			t.Errorf("%s: something is forwarded: %v", name, p.Props.HasForward())
		}
		alias, expiry := p.Props.TopicAlias, p.Props.Expiry
		want := AppendUserProperty(nil, []byte("k"), []byte("v"))
		p.Props.SetForward(want)
		got, _ := p.Props.Forward(nil)
		if !bytes.Equal(got, want) || !p.Props.HasForward() || p.Props.TopicAlias != alias || p.Props.Expiry != expiry {
			t.Errorf("%s: %x", name, got)
		}
	}
}
