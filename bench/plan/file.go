package plan

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
)

// modelBytesMax bounds a model's file.
const modelBytesMax = 16 << 20

//go:embed default.json
var defaultModel []byte

// Default is the model that is in the program, of the machine that it names.
func Default() (*Model, error) { return ParseModel("the model in the program", defaultModel) }

// LoadModel reads a model's file.
func LoadModel(name string) (*Model, error) {
	f, err := os.Open(filepath.Clean(name))
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, modelBytesMax+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	return ParseModel(name, b)
}

// ParseModel reads a model. name is what errors call it.
func ParseModel(name string, b []byte) (*Model, error) {
	m := &Model{}
	if len(b) > modelBytesMax {
		return nil, fmt.Errorf("%s: larger than %d bytes", name, modelBytesMax)
	}
	if err := json.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("%s is no model: %w", name, err)
	}
	if m.Format != modelFormat {
		return nil, fmt.Errorf("%s is no model of this version: format %d, not %d; sluice plan fit makes one", name, m.Format, modelFormat)
	}
	if err := m.sane(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return m, nil
}

// sane refuses what no fit gives.
func (m *Model) sane() error {
	all := append([]Parameters{m.Parameters}, m.Replicas...)
	for i := range all {
		p := &all[i]
		if len(p.CPU) == 0 || !(p.Wake.Max > 0) || !(p.Flush.Max > 0) {
			return errors.New("costs are missing")
		}
		for _, t := range []Terms{p.CPU, p.Wake.Costs, p.Flush.Costs, p.Reads, p.Writes, p.Memory, p.Disk, p.Received, p.Sent} {
			for name, v := range t {
				if v < 0 || math.IsNaN(v) || math.IsInf(v, 0) {
					return fmt.Errorf("the cost of %s is %v", name, v)
				}
			}
		}
	}
	return nil
}

// Append writes the model's file: one line for each replica, so that it is small and can still be read.
func (m *Model) Append(dst []byte) ([]byte, error) {
	slim := *m
	slim.Replicas = make([]Parameters, len(m.Replicas))
	for i := range m.Replicas {
		slim.Replicas[i] = m.Replicas[i].rounded()
	}
	b, err := json.Marshal(&slim)
	return append(append(dst, b...), '\n'), err
}

// rounded keeps four digits, which is more than a fit knows.
func (p *Parameters) rounded() Parameters {
	round := func(t Terms) Terms {
		out := make(Terms, len(t))
		for name, v := range t {
			if v != 0 {
				out[name] = four(v)
			}
		}
		return out
	}
	return Parameters{CPU: round(p.CPU), ColdAfter: p.ColdAfter, Wake: Sharing{four(p.Wake.Max), round(p.Wake.Costs)},
		Flush: Sharing{four(p.Flush.Max), round(p.Flush.Costs)},
		Reads: round(p.Reads), Writes: round(p.Writes), Fetches: four(p.Fetches), Memory: round(p.Memory), Disk: round(p.Disk),
		Received: round(p.Received), Sent: round(p.Sent)}
}

func four(v float64) float64 {
	if v == 0 {
		return 0
	}
	scale := math.Pow(10, 3-math.Floor(math.Log10(math.Abs(v))))
	return math.Round(v*scale) / scale
}

// About says in a line where a model comes from.
func (m *Model) About() string {
	return fmt.Sprintf("measured %s with version %s on %v", m.Measured.Format("2006-01-02"), m.Version, m.Machine)
}
