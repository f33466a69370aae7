package plan

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// Observation is what one rung cost: a line of a file of results.
type Observation struct {
	Rung    string    `json:"rung"`
	Started time.Time `json:"started"`
	Machine Machine   `json:"machine"`
	Version string    `json:"version"` // of the program that measured

	Load    Load    `json:"load"`    // as it was, by the clients' counts
	Seconds float64 `json:"seconds"` // that the figures below are of
	CPU     float64 `json:"cpu"`     // seconds of the server's; 0: not known
	// Timetable: clients sent each by itself, as devices do. What is driven by answers comes in bursts, of which nothing can
	// be said but by counters.
	Timetable bool `json:"timetable"`

	Counted  bool    `json:"counted"` // the counters below were read from the server
	Wakeups  float64 `json:"wakeups,omitempty"`
	Reads    float64 `json:"reads,omitempty"`
	Writes   float64 `json:"writes,omitempty"`
	Flushes  float64 `json:"flushes,omitempty"`
	Written  float64 `json:"written_bytes,omitempty"` // to the log
	Received float64 `json:"received_bytes,omitempty"`
	Sent     float64 `json:"sent_bytes,omitempty"`

	// Settled: the figures below are of a quiet node. Memory is what is resident but for shared mappings: those are pages of the
	// log, which the kernel takes back as it likes.
	Settled      bool    `json:"settled,omitempty"`
	MemoryBefore float64 `json:"memory_before,omitempty"`
	MemoryAfter  float64 `json:"memory_after,omitempty"`
	Mapped       float64 `json:"mapped_after,omitempty"` // resident of shared mappings

	Clients float64 `json:"clients,omitempty"` // cores that the clients took
	Late    float64 `json:"late_us,omitempty"` // of the clients' sends, at p99: how busy the machine was with other things
	Doubt   string  `json:"doubt,omitempty"`   // why it does not count
}

// Machine is what observations were made on: those of different machines do not make one model.
type Machine struct {
	CPU         string  `json:"cpu"`
	Cores       int     `json:"cores"`
	MemoryBytes float64 `json:"memory_bytes"`
	Kernel      string  `json:"kernel"`
}

// String is the machine in a few words.
func (m Machine) String() string {
	return fmt.Sprintf("%s, %d cores, %.0f GB, %s", m.CPU, m.Cores, m.MemoryBytes/1e9, m.Kernel)
}

// observationsMax bounds the lines of a file of results.
const observationsMax = 100_000

// ReadObservations reads results, a JSON value a line. Observations that carry a doubt are read too.
func ReadObservations(r io.Reader, name string) ([]Observation, error) {
	var list []Observation
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		if len(lines.Bytes()) == 0 {
			continue
		}
		if n > observationsMax {
			return nil, fmt.Errorf("%s: more than %d lines", name, observationsMax)
		}
		var o Observation
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, n, err)
		}
		if o.Rung == "" || o.Seconds <= 0 {
			return nil, fmt.Errorf("%s:%d: not a result of sluice plan measure", name, n)
		}
		list = append(list, o)
	}
	return list, lines.Err()
}

// ReadObservationFiles reads several files as one.
func ReadObservationFiles(names []string) (list []Observation, err error) {
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		more, err := ReadObservations(f, name)
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		list = append(list, more...)
	}
	return list, nil
}
