package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// vector is one packet of testdata/*.hex. A block is
//
//	name version client|server
//	hex bytes, on as many lines as needed; # begins a comment
//	= what the packet says, as describe writes it
//	~ the bytes that it is encoded to, where the packet itself is a longer form than need be
type vector struct {
	file, name string
	version    byte
	from       side
	packet     []byte
	canonical  []byte
	says       string
}

func loadVectors(t testing.TB) (all []vector) {
	t.Helper()
	files, err := filepath.Glob("testdata/*.hex")
	if err != nil || len(files) == 0 {
		t.Fatalf("no vectors: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range strings.Split(string(text), "\n\n") {
			if v := parseVector(t, file, block); v.packet != nil {
				all = append(all, v)
			}
		}
	}
	return all
}

func parseVector(t testing.TB, file, block string) vector {
	t.Helper()
	v := vector{file: filepath.Base(file)}
	for _, line := range strings.Split(block, "\n") {
		if says, ok := strings.CutPrefix(line, "= "); ok {
			v.says = says
			continue
		}
		line, _, _ = strings.Cut(line, "#")
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		if v.name == "" {
			head := strings.Fields(line)
			versions := map[string]byte{"3.1": V31, "3.1.1": V311, "5.0": V5}
			if len(head) != 3 || versions[head[1]] == 0 {
				t.Fatalf("%s: bad head %q", file, line)
			}
			v.name, v.version, v.from = head[0], versions[head[1]], side(head[2] == "server")
			continue
		}
		canonical, longer := strings.CutPrefix(line, "~")
		b, err := hex.DecodeString(strings.ReplaceAll(canonical, " ", ""))
		if err != nil {
			t.Fatalf("%s: %s: %v", file, v.name, err)
		}
		if longer {
			v.canonical = append(v.canonical, b...)
		} else {
			v.packet = append(v.packet, b...)
		}
	}
	if v.canonical == nil {
		v.canonical = v.packet
	}
	return v
}

// scanVersion is the version that Scan is told: a server knows none before CONNECT.
func (v *vector) scanVersion() byte {
	if PacketType(v.packet[0]>>4) == CONNECT {
		return 0
	}
	return v.version
}

// TestVectors decodes and encodes the packets of the specifications.
//
// Conformance: MQTT-1.5.7-1 (5.0), MQTT-2.1.3-1 (5.0), MQTT-2.2.2-1 (5.0)
// Conformance: MQTT-1.5.3-3 (3.1.1), MQTT-1.5.4-3 (5.0)
func TestVectors(t *testing.T) {
	for _, v := range loadVectors(t) {
		t.Run(v.file+"/"+v.name, func(t *testing.T) {
			h, err := Scan(v.packet, 0, v.scanVersion())
			if err != nil {
				t.Fatal(err)
			}
			if h.Size != len(v.packet) {
				t.Fatalf("packet has %d bytes, scanned %d", len(v.packet), h.Size)
			}
			says, again, err := describe(h, v.version, v.from)
			if err != nil {
				t.Fatal(err)
			}
			if says != v.says {
				t.Errorf("decoded\n  %s\nwant\n  %s", says, v.says)
			}
			if !bytes.Equal(again, v.canonical) {
				t.Errorf("encoded\n  %x\nwant\n  %x", again, v.canonical)
			}
		})
	}
}

// TestSplit scans each vector at every split of its bytes: Scan never reads past what came, always asks for more than it
// has, never for more than the packet, and names the packet at its last byte.
func TestSplit(t *testing.T) {
	for _, v := range loadVectors(t) {
		for n := range len(v.packet) {
			h, err := Scan(v.packet[:n:n], 0, v.scanVersion())
			if !errors.Is(err, ErrShort) {
				t.Fatalf("%s/%s: %d of %d bytes: %v", v.file, v.name, n, len(v.packet), err)
			}
			if h.Size <= n || h.Size > len(v.packet) {
				t.Fatalf("%s/%s: %d of %d bytes: asks for %d", v.file, v.name, n, len(v.packet), h.Size)
			}
		}
		next := append(bytes.Clone(v.packet), 0xFF, 0xFF)
		h, err := Scan(next, 0, v.scanVersion())
		if err != nil || h.Size != len(v.packet) {
			t.Fatalf("%s/%s: with bytes behind it: size %d, %v", v.file, v.name, h.Size, err)
		}
	}
}

// TestCutBody decodes each vector's body cut at every byte: whatever the cut, it is an answer.
func TestCutBody(t *testing.T) {
	for _, v := range loadVectors(t) {
		h, err := Scan(v.packet, 0, v.scanVersion())
		if err != nil {
			t.Fatal(err)
		}
		for n := range len(h.Body) {
			cut := h
			cut.Body = h.Body[:n:n]
			_, _, err := describe(cut, v.version, v.from)
			var p *ProtocolError
			if err != nil && !errors.As(err, &p) {
				t.Fatalf("%s/%s: %d of %d bytes: %v", v.file, v.name, n, len(h.Body), err)
			}
		}
	}
}
