package main

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/sluicemq/sluice/bench"
)

// row is one scenario: the arguments of sluice bench mqtt, or kafka.
type row struct {
	name string
	args []string
}

// protocol is what the peers speak.
type protocol struct {
	name      string
	scenarios func() []string
	rows      string // the lines of the table of figures in docs/performance.md
}

var protocols = map[string]protocol{
	"mqtt": {"mqtt", bench.Scenarios, mqttRows}, "kafka": {"kafka", bench.KafkaScenarios, kafkaRows},
}

const mqttRows = `
QoS 0, pipelined: pairs --qos 0 --pipeline 64
QoS 0, 2,000 msg/s: pairs --qos 0 --rate 2000
QoS 0, 20,000 msg/s: pairs --qos 0 --rate 20000
QoS 1, 20 in flight: pairs --qos 1 --inflight 20
QoS 1, durable sessions: pairs --qos 1 --inflight 20 --durable
QoS 2, 20 in flight: pairs --qos 2 --inflight 20
QoS 2, durable sessions: pairs --qos 2 --inflight 20 --durable
fan-out 1 to 1,000: fanout --subscribers 1000
fan-in 1,000 to 1 at 20,000 msg/s: fanin --publishers 1000 --rate 20000
100,000 wildcard filters: wildcards
absent sessions: queue --messages 200000 --subscribers 8
retained: retained --messages 100000
connect storm: storm --connections 10000
idle connections: idle --connections 15000
`

const kafkaRows = `
produce 1 KiB, batches of 1 MB: produce --batch-bytes 1000000
produce 1 KiB, batches of 16 KiB: produce
produce 100 B, batches of 1 MB: produce --size 100 --batch-bytes 1000000
produce 1 KiB, one record a batch: produce --batch-bytes 1
consume 1 KiB: consume --batch-bytes 1000000
end to end, 2,000 msg/s: e2e --rate 2000
end to end, 20,000 msg/s: e2e --rate 20000
transactions, 20,000 msg/s: transactions --rate 20000 --linger 5ms --partitions 4
groups, 4 of 3 members: groups
1,000 partitions: partitions --partitions 1000
`

// parseRows reads lines "NAME: SCENARIO FLAGS...". Empty lines and those that begin with # are passed over.
func (x protocol) parseRows(r io.Reader) ([]row, error) {
	var rows []row
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, command, ok := strings.Cut(line, ": ")
		args := strings.Fields(command)
		if !ok || len(args) == 0 {
			return nil, fmt.Errorf("line %d: %q is not NAME: SCENARIO FLAGS", n, line)
		}
		if names := x.scenarios(); !slices.Contains(names, args[0]) {
			return nil, fmt.Errorf("line %d: scenario %q is none of %s", n, args[0], strings.Join(names, ", "))
		}
		rows = append(rows, row{name, args})
	}
	return rows, lines.Err()
}
