package main

import (
	"fmt"
	"time"

	"github.com/sluicemq/sluice/control/api"
)

// Phases of a node on its way to having the shards, as the control plane names them.
const (
	phaseNone   = "none"
	phaseInSync = "in_sync"
)

// phaseTexts are phases as a reader has them. Of one that is in sync another column tells.
var phaseTexts = map[string]string{phaseNone: "", "away": "away", "preparing": "its copy is made", "copying": "gets a copy", "catching_up": "catches up", phaseInSync: ""}

// yieldsNoClients is why a node without the role of a broker leaves the lead to others.
const yieldsNoClients = "no_clients"

// yieldsTexts are why nodes leave the lead to others, as a reader has it.
var yieldsTexts = map[string]string{"drained": "drained", "stopping": "stops", "failed": "its disk has failed or is full", "no_store": "has no store",
	"behind": "gets a copy", yieldsNoClients: "takes no clients"}

func yieldsText(why string) string {
	if text, known := yieldsTexts[why]; known {
		return text
	}
	return plain(why) // of a newer node
}

// nodeProgress is how far a node is, in every output.
type nodeProgress struct {
	Node           uint32  `json:"node" yaml:"node"`
	Phase          string  `json:"phase" yaml:"phase"`
	DoneBytes      uint64  `json:"done_bytes" yaml:"done_bytes"`
	TotalBytes     uint64  `json:"total_bytes" yaml:"total_bytes"`
	BytesPerSecond uint64  `json:"bytes_per_second" yaml:"bytes_per_second"`
	SecondsLeft    *uint64 `json:"seconds_left" yaml:"seconds_left"` // null: nobody knows
	Never          bool    `json:"never" yaml:"never"`
}

func nodeProgressOf(p *api.NodeProgress) nodeProgress {
	return nodeProgress{p.Node, p.Phase, p.DoneBytes, p.TotalBytes, p.BytesPerSecond, p.SecondsLeft, p.Never}
}

// text says it in a cell, or a line.
func (p *nodeProgress) text() string {
	text, known := phaseTexts[p.Phase]
	if !known {
		text = plain(p.Phase) // of a newer node
	}
	if p.TotalBytes == 0 {
		return text
	}
	text += fmt.Sprintf(": %s of %s", sizeText(int64(p.DoneBytes)), sizeText(int64(p.TotalBytes)))
	if p.BytesPerSecond > 0 {
		text += fmt.Sprintf(", %s/s", sizeText(int64(p.BytesPerSecond)))
	}
	switch {
	case p.Never:
		text += ", never at this rate: more is written"
	case p.SecondsLeft != nil && *p.SecondsLeft > 0:
		text += fmt.Sprintf(", %s left", age(time.Duration(*p.SecondsLeft)*time.Second))
	}
	return text
}
