package server

import (
	"strconv"

	"github.com/sluicemq/sluice/cluster/carry"
	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/control"
	"github.com/sluicemq/sluice/meta"
)

// clusterMetricHelp are the metrics that a node of a cluster has beside the others, as metricHelp.
var clusterMetricHelp = map[string]string{
	"sluice_link_peers":                       "Nodes that this one has a connection to. Of a node of a cluster alone, as all of sluice_link_* and sluice_meta_*.",
	"sluice_link_connects_total":              "Connections of nodes that came up.",
	"sluice_link_dials_total":                 "Attempts of this node to connect to another.",
	"sluice_link_refusals_total":              "Handshakes of nodes that failed, at either end.|reason",
	"sluice_link_ends_total":                  "Connections of nodes that ended.|reason",
	"sluice_link_received_bytes_total":        "Bytes of messages from other nodes, as they came, by what they are for.|kind",
	"sluice_link_sent_bytes_total":            "Bytes of messages to other nodes, as they were sent, by what they are for.|kind",
	"sluice_link_received_messages_total":     "Messages from other nodes.|kind",
	"sluice_link_sent_messages_total":         "Messages to other nodes.|kind",
	"sluice_link_stalls_total":                "Times that a channel had something to send and its receiver had not come along.|kind",
	"sluice_link_full_total":                  "Messages that found the queue to a node full.|kind",
	"sluice_link_writes_total":                "Turns of the writers to other nodes.",
	"sluice_link_memory_bytes":                "Bytes of what came from other nodes and is in use.",
	"sluice_link_queued_bytes":                "Bytes that wait to be sent to a node.|node",
	"sluice_link_round_trip_seconds":          "Round trip to a node, the last that was measured.|node",
	"sluice_link_clock_offset_seconds":        "A node's clock less this one's, as its connection began.|node",
	"sluice_link_clock_warnings_total":        "Connections of nodes whose clock differed too much.",
	"sluice_link_certificate_expiry_seconds":  "When this node's certificate for the others ends, Unix time; 0 without one.",
	"sluice_carry_clients":                    "MQTT clients that came in here and that the node that leads serves, now.",
	"sluice_carry_waiting":                    "MQTT clients that wait for a node to lead.",
	"sluice_carry_brought":                    "MQTT clients that other nodes have brought here, now.",
	"sluice_carry_held_bytes":                 "Bytes of carried clients that were received over the link and not taken yet.",
	"sluice_carry_clients_total":              "MQTT clients that were carried to the node that leads.",
	"sluice_carry_brought_total":              "MQTT clients that other nodes have brought here.",
	"sluice_carry_redirected_total":           "MQTT 5 clients that were sent to the node that leads, by mqtt.redirect.",
	"sluice_carry_ended_total":                "Carried MQTT clients that were refused or ended, by why: nobody led for too long, the leader did not take them, the leader was gone, too much was held of them.|reason",
	"sluice_cluster_leads":                    "1 while this node leads all shards (where there are sets: those of set 0, as all of sluice_cluster_*) and they take commands, else 0.",
	"sluice_cluster_leader_known":             "1 while this node knows who leads the shards, else 0.",
	"sluice_cluster_epoch":                    "The epoch of the shards' leader; it grows with each.",
	"sluice_cluster_in_sync":                  "Nodes in sync, the one that leads included.",
	"sluice_cluster_least_in_sync":            "Nodes that have to be in sync for anything to be acknowledged.",
	"sluice_cluster_replicas":                 "Nodes that have the shards.",
	"sluice_cluster_lag_frames":               "Frames of the log that the nodes lack which follow, the most of any; where it leads alone.",
	"sluice_cluster_nodes":                    "Nodes that have the shards or are to have them, by how far they are: away, preparing (a copy is made for it), copying, catching_up or in_sync; where it leads alone.|phase",
	"sluice_cluster_behind_bytes":             "Bytes that a node has yet to get which is not in sync: of the copy that is made or sent, or of the log; where it leads alone.|node",
	"sluice_cluster_catchup_bytes_per_second": "How fast such a node gets them.|node",
	"sluice_cluster_catchup_seconds":          "How long it takes yet, as it went lately; not there while nobody knows, or where it does not come to the end.|node",
	"sluice_set_leads":                        "1 while this node leads a set of shards and they take commands, else 0. Where there are sets beside the first alone, and of those, as all of sluice_set_*.|set",
	"sluice_set_leader_known":                 "1 while this node knows who leads the set, else 0.|set",
	"sluice_set_epoch":                        "The epoch of the set's leader; it grows with each.|set",
	"sluice_set_in_sync":                      "Nodes in sync, the one that leads the set included.|set",
	"sluice_set_least_in_sync":                "Nodes that have to be in sync for anything of the set to be acknowledged.|set",
	"sluice_set_replicas":                     "Nodes that have the set's shards.|set",
	"sluice_set_lag_frames":                   "Frames of the set's shards that the nodes lack which follow, the most of any; where it is led alone.|set",
	"sluice_set_nodes":                        "Nodes that have the set's shards or are to have them, by how far they are, as in sluice_cluster_nodes; where it is led alone.|set,phase",
	"sluice_set_behind_bytes":                 "Bytes that a node has yet to get of the log (or of a copy, which is of all sets) that is not in sync with the set; where it is led alone.|set,node",
	"sluice_set_catchup_bytes_per_second":     "How fast such a node gets them.|set,node",
	"sluice_set_catchup_seconds":              "How long it takes yet, as it went lately; not there while nobody knows, or where it does not come to the end.|set,node",
	"sluice_meta_group_leads":                 "1 while this node leads the catalog's group, else 0.",
	"sluice_meta_group_leader_known":          "1 while this node knows who leads the catalog's group, else 0.",
	"sluice_meta_group_halted":                "1 once this node applies no changes of the catalog any more, else 0.",
	"sluice_meta_nodes":                       "Nodes of the catalog.|state",
}

// collectCluster tells of the link and of the catalog's group, if the node is one of a cluster.
func (c *collector) collectCluster(k sink) {
	g := c.s.node.cluster
	if g == nil {
		return
	}
	collectLink(k, g.Mesh())
	collectCarry(k, c.s.node.carry)
	leader, known := g.Leader()
	k.bit("sluice_meta_group_leader_known", known)
	k.bit("sluice_meta_group_leads", known && int(leader) == c.s.cfg.Load().Node.ID)
	k.bit("sluice_meta_group_halted", g.Halted() != nil)
	sets := []control.Placement{{}} // nobody leads
	if m := c.s.node.member; m != nil {
		sets = m.Placements()
	}
	collectShards(k, sets)
	states := make(map[string]int)
	for _, n := range c.s.catalog.Load().Nodes() {
		states[n.State.String()]++
	}
	for _, s := range []meta.NodeState{meta.NodeJoining, meta.NodeActive, meta.NodeRemoved} {
		k.gauge("sluice_meta_nodes", float64(states[s.String()]), s.String())
	}
}

// bit is a gauge that is 1 or 0.
func (k sink) bit(name string, on bool, labels ...string) {
	v := 0.0
	if on {
		v = 1
	}
	k.gauge(name, v, labels...)
}

// collectShards tells of who leads each set of shards: of set 0 by the names that were there before the others, of those with the set as a label.
func collectShards(k sink, sets []control.Placement) {
	for i := range sets {
		p, prefix := &sets[i], "sluice_cluster_"
		var of []string
		if p.Set > 0 {
			prefix, of = "sluice_set_", []string{strconv.Itoa(p.Set)}
		}
		sh := p.Shard
		if sh == nil {
			sh = new(meta.Shard)
		}
		lag := uint64(0)
		for _, n := range p.Followers {
			lag = max(lag, n)
		}
		k.bit(prefix+"leads", p.Open, of...)
		k.bit(prefix+"leader_known", p.Leader != 0, of...)
		k.gauge(prefix+"epoch", float64(sh.Epoch), of...)
		k.gauge(prefix+"in_sync", float64(len(sh.ISR)), of...)
		k.gauge(prefix+"least_in_sync", float64(p.Least), of...)
		k.gauge(prefix+"replicas", float64(len(sh.Replicas)), of...)
		k.gauge(prefix+"lag_frames", float64(lag), of...)
		collectProgress(k, prefix, of, p.Progress)
	}
}

// collectCarry tells of carried clients; d may be nil.
func collectCarry(k sink, d *carry.Door) {
	var s carry.Stats
	if d != nil {
		s = d.Stats()
	}
	k.gauge("sluice_carry_clients", float64(s.Carried))
	k.gauge("sluice_carry_waiting", float64(s.Waiting))
	k.gauge("sluice_carry_brought", float64(s.Brought))
	k.gauge("sluice_carry_held_bytes", float64(s.HeldBytes))
	k.counter("sluice_carry_clients_total", s.CarriedTotal)
	k.counter("sluice_carry_brought_total", s.BroughtTotal)
	k.counter("sluice_carry_redirected_total", s.Redirected)
	k.counter("sluice_carry_ended_total", s.RefusedNobody, "nobody_leads")
	k.counter("sluice_carry_ended_total", s.RefusedLeader, "refused")
	k.counter("sluice_carry_ended_total", s.Lost, "leader_gone")
	k.counter("sluice_carry_ended_total", s.Slow, "slow")
}

func collectLink(k sink, m *link.Mesh) {
	s := m.Stats()
	k.gauge("sluice_link_peers", float64(s.Peers))
	k.counter("sluice_link_connects_total", s.Connects)
	k.counter("sluice_link_dials_total", s.Dials)
	for r, n := range s.Refusals {
		k.counter("sluice_link_refusals_total", n, r.String())
	}
	for r, n := range s.Ends {
		k.counter("sluice_link_ends_total", n, r.String())
	}
	for kind, n := range s.Kinds {
		k.counter("sluice_link_received_bytes_total", n.BytesIn, kind.String())
		k.counter("sluice_link_sent_bytes_total", n.BytesOut, kind.String())
		k.counter("sluice_link_received_messages_total", n.MessagesIn, kind.String())
		k.counter("sluice_link_sent_messages_total", n.MessagesOut, kind.String())
		k.counter("sluice_link_stalls_total", n.Stalls, kind.String())
		k.counter("sluice_link_full_total", n.Busy, kind.String())
	}
	k.counter("sluice_link_writes_total", s.Writes)
	k.gauge("sluice_link_memory_bytes", float64(s.MemoryBytes))
	k.counter("sluice_link_clock_warnings_total", s.ClockWarnings)
	node := func(id link.NodeID) string { return strconv.FormatUint(uint64(id), 10) }
	for id, n := range s.Queued {
		k.gauge("sluice_link_queued_bytes", float64(n), node(id))
	}
	for id, d := range s.RTT {
		k.gauge("sluice_link_round_trip_seconds", d.Seconds(), node(id))
	}
	for id, d := range s.ClockOff {
		k.gauge("sluice_link_clock_offset_seconds", d.Seconds(), node(id))
	}
	expiry := 0.0
	if e := m.CertificateExpiry(); !e.IsZero() {
		expiry = float64(e.Unix())
	}
	k.gauge("sluice_link_certificate_expiry_seconds", expiry)
}
