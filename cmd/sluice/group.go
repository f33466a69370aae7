package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicemq/sluice/control/api"
)

func init() { register(newGroupCommand) }

// groupRow is a group in every output.
type groupRow struct {
	ID           string  `json:"id" yaml:"id"`
	State        string  `json:"state" yaml:"state"`
	Type         string  `json:"type" yaml:"type"`
	ProtocolType string  `json:"protocol_type" yaml:"protocol_type"`
	Members      int32   `json:"members" yaml:"members"`
	Lag          int64   `json:"lag" yaml:"lag"`
	LagSeconds   float64 `json:"lag_seconds" yaml:"lag_seconds"`
	InFlight     int64   `json:"in_flight" yaml:"in_flight"`
}

func groupRowOf(g *api.Group) groupRow {
	lag := time.Duration(g.LagMs) * time.Millisecond
	return groupRow{g.Id, g.State, g.Type, g.ProtocolType, g.Members, g.Lag, lag.Seconds(), g.InFlight}
}

func (g *groupRow) cells() []string {
	return []string{g.ID, g.State, g.Type, orDash(g.ProtocolType), number(g.Members), number(g.Lag)}
}

// groupView is what describe prints.
type groupView struct {
	groupRow `yaml:",inline"`
	Assignor string      `json:"assignor" yaml:"assignor"`
	List     []memberRow `json:"member_list" yaml:"member_list"`
	Offsets  []offsetRow `json:"offsets" yaml:"offsets"`
}

type memberRow struct {
	ID         string             `json:"id" yaml:"id"`
	InstanceID string             `json:"instance_id" yaml:"instance_id"`
	ClientID   string             `json:"client_id" yaml:"client_id"`
	Host       string             `json:"host" yaml:"host"`
	Assigned   map[string][]int32 `json:"assigned" yaml:"assigned"`
}

type offsetRow struct {
	Topic      string  `json:"topic" yaml:"topic"`
	Partition  int32   `json:"partition" yaml:"partition"`
	Offset     int64   `json:"offset" yaml:"offset"`
	LogStart   int64   `json:"log_start" yaml:"log_start"`
	LogEnd     int64   `json:"log_end" yaml:"log_end"`
	Lag        int64   `json:"lag" yaml:"lag"`
	LagSeconds float64 `json:"lag_seconds" yaml:"lag_seconds"`
	Member     string  `json:"member" yaml:"member"`
	Committed  string  `json:"committed" yaml:"committed"`
	Metadata   string  `json:"metadata" yaml:"metadata"`
}

type changeRow struct {
	Topic     string `json:"topic" yaml:"topic"`
	Partition int32  `json:"partition" yaml:"partition"`
	Before    int64  `json:"before" yaml:"before"`
	After     int64  `json:"after" yaml:"after"`
}

func newGroupCommand() *cobra.Command {
	f := &controlFlags{}
	return f.tenantGroup("group", "List, describe and delete consumer groups, and move their offsets",
		groupList(f), groupDescribe(f), groupDelete(f), groupReset(f))
}

func groupList(f *controlFlags) *cobra.Command {
	var contains string
	var limit int
	var states []string
	c := &cobra.Command{
		Use: "list", Short: "List consumer groups and shared subscriptions with their lag", Args: atMost(0),
		Long: "List consumer groups of Kafka's clients, and MQTT's shared subscriptions that have a kept session among their members, as $share/NAME/FILTER.\n" +
			"LAG is in records; that of a shared subscription is what no member has finished.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.call(cmd, func(k *controlCall) error {
				l := listing[groupRow]{w: cmd.OutOrStdout(), o: f.output, row: (*groupRow).cells, limit: limit,
					header: []string{"GROUP", "STATE", "TYPE", "PROTOCOL", "MEMBERS", "LAG"}}
				return l.pages(func(token []byte) ([]groupRow, []byte, error) {
					r, err := ask(k, api.NewGroupsClient(k).List, &api.ListGroupsRequest{PageToken: token, Contains: contains, States: states})
					if err != nil {
						return nil, nil, err
					}
					return each(r.Groups, groupRowOf), r.NextPageToken, nil
				})
			})
		},
	}
	listFlags(c, f, &contains, &limit, "groups whose id holds this text")
	c.Flags().StringSliceVar(&states, "state", nil, "only groups in one of these states, such as Stable or Empty")
	_ = c.RegisterFlagCompletionFunc("state", cobra.FixedCompletions([]string{"Assigning", "CompletingRebalance", "Empty", "PreparingRebalance",
		"Reconciling", "Stable"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func groupDescribe(f *controlFlags) *cobra.Command {
	c := &cobra.Command{
		Use: "describe GROUP", Short: "Show a group's members, offsets and lag", Args: exactly("GROUP"),
		Long: "Show a group's members and, for each partition, where it goes on and how far it is behind: in records, and in time, which is the age of\n" +
			"the first record that it has not read.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.call(cmd, func(k *controlCall) error {
				d, err := ask(k, api.NewGroupsClient(k).Describe, &api.DescribeGroupRequest{Id: args[0]})
				if err != nil {
					return err
				}
				return f.describeGroup(cmd, d)
			})
		},
	}
	f.output.add(c)
	c.ValidArgsFunction = f.complete(1, completeGroups)
	return c
}

func (f *controlFlags) describeGroup(cmd *cobra.Command, d *api.GroupDescription) error {
	v := groupView{groupRow: groupRowOf(d.Group), Assignor: d.Assignor, List: []memberRow{}, Offsets: []offsetRow{}}
	members := [][]string{{"MEMBER", "CLIENT", "HOST", "ASSIGNED"}}
	for _, m := range d.Members {
		row := memberRow{m.Id, m.InstanceId, m.ClientId, m.Host, map[string][]int32{}}
		var assigned []string
		for _, t := range m.Assigned {
			row.Assigned[t.Topic] = t.Partitions
			assigned = append(assigned, t.Topic+"/"+ranges(t.Partitions))
		}
		v.List = append(v.List, row)
		members = append(members, []string{plain(m.Id), plain(orDash(m.ClientId)), plain(m.Host), plain(orDash(strings.Join(assigned, " ")))})
	}
	offsets := [][]string{{"TOPIC", "PARTITION", "OFFSET", "LOG END", "LAG", "LAG TIME", "MEMBER"}}
	for _, o := range d.Offsets {
		lag := time.Duration(o.LagMs) * time.Millisecond
		v.Offsets = append(v.Offsets, offsetRow{o.Topic, o.Partition, o.Offset, o.LogStart, o.LogEnd, o.Lag, lag.Seconds(), o.Member, stamp(o.CommittedMs), o.Metadata})
		at := "-"
		if o.Offset >= 0 {
			at = number(o.Offset)
		}
		offsets = append(offsets, []string{o.Topic, number(o.Partition), at, number(o.LogEnd), number(o.Lag), age(lag), plain(orDash(o.Member))})
	}
	w := cmd.OutOrStdout()
	head := [][]string{{"group", plain(v.ID)}, {"state", v.State}, {"type", v.Type}}
	if v.Type == "shared" {
		head = append(head, [][]string{{"members", number(v.Members)}, {"lag", number(v.Lag)}, {"lag time", age(time.Duration(d.Group.LagMs) * time.Millisecond)},
			{"in flight", number(v.InFlight)}}...)
	} else {
		head = append(head, []string{"assignor", plain(orDash(v.Assignor))}, []string{"lag", number(v.Lag)}, []string{"lag time", age(oldest(v.Offsets))})
		v.LagSeconds = oldest(v.Offsets).Seconds()
	}
	if err := f.output.write(w, &v, head); err != nil || f.output != "table" {
		return err
	}
	for _, table := range [][][]string{members, offsets} {
		if len(table) > 1 {
			fmt.Fprintln(w)
			if err := f.output.write(w, nil, table); err != nil {
				return err
			}
		}
	}
	return nil
}

// oldest is the longest lag of a group that commits.
func oldest(list []offsetRow) time.Duration {
	most := 0.0
	for i := range list {
		if list[i].Offset >= 0 {
			most = max(most, list[i].LagSeconds)
		}
	}
	return time.Duration(most * float64(time.Second))
}

// ranges shows sorted numbers: 0-3,7.
func ranges(list []int32) string {
	var b strings.Builder
	for i := 0; i < len(list); {
		k := i
		for k+1 < len(list) && list[k+1] == list[k]+1 {
			k++
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(number(list[i]))
		if k > i {
			b.WriteString("-" + number(list[k]))
		}
		i = k + 1
	}
	return b.String()
}

func groupDelete(f *controlFlags) *cobra.Command {
	c := &cobra.Command{
		Use: "delete GROUP...", Short: "Forget groups that have no members, with their offsets", Args: someOf("GROUP"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.call(cmd, func(k *controlCall) error {
				return f.deleteAll(cmd, "group", args, func(id string) error {
					_, err := ask(k, api.NewGroupsClient(k).Delete, &api.DeleteGroupRequest{Id: id})
					return err
				})
			})
		},
	}
	c.ValidArgsFunction = f.complete(0, completeGroups)
	return c
}

func groupReset(f *controlFlags) *cobra.Command {
	var topics []string
	var to string
	var dry bool
	c := &cobra.Command{
		Use: "reset-offsets GROUP --to WHERE", Short: "Move a group that has no members", Args: exactly("GROUP"),
		Long: "Move a group that has no members, in the topics named, or in all of which it has offsets. WHERE is `earliest`, `latest`, an offset, a time\n" +
			"(RFC 3339, or an age such as `90m`: the first record since then), or a shift from where the group is (`+100`, `-100`). What lies outside\n" +
			"of a partition's log is cut to its ends.",
		Example: "  sluice group reset-offsets billing --to earliest --topic orders --dry-run\n" +
			"  sluice group reset-offsets billing --to 2026-11-26T08:00:00Z --topic orders:0,3",
		RunE: func(cmd *cobra.Command, args []string) error {
			r := &api.ResetOffsetsRequest{Group: args[0], ValidateOnly: dry}
			if err := resetTarget(r, to, time.Now()); err != nil {
				return err
			}
			for _, t := range topics {
				tp, err := topicPartitions(t)
				if err != nil {
					return err
				}
				r.Topics = append(r.Topics, tp)
			}
			return f.call(cmd, func(k *controlCall) error {
				resp, err := ask(k, api.NewGroupsClient(k).ResetOffsets, r)
				if err != nil {
					return err
				}
				list := each(resp.Changes, func(c *api.OffsetChange) changeRow { return changeRow{c.Topic, c.Partition, c.Before, c.After} })
				table := [][]string{{"TOPIC", "PARTITION", "BEFORE", "AFTER"}}
				for _, c := range list {
					table = append(table, []string{c.Topic, number(c.Partition), number(c.Before), number(c.After)})
				}
				return f.output.write(cmd.OutOrStdout(), list, table)
			})
		},
	}
	c.Flags().StringArrayVar(&topics, "topic", nil, "topic, or TOPIC:PARTITION,...; may be repeated (default: all of which the group has offsets)")
	c.Flags().StringVar(&to, "to", "", "earliest, latest, an offset, a time, an age, or a shift (see above)")
	c.Flags().BoolVar(&dry, "dry-run", false, "say what would come of it, and change nothing")
	f.output.add(c)
	_ = c.RegisterFlagCompletionFunc("topic", f.complete(0, completeTopics))
	_ = c.RegisterFlagCompletionFunc("to", cobra.FixedCompletions([]string{"earliest", "latest"}, cobra.ShellCompDirectiveNoFileComp))
	c.ValidArgsFunction = f.complete(1, completeGroups)
	return c
}

// resetTarget reads WHERE.
func resetTarget(r *api.ResetOffsetsRequest, to string, now time.Time) error {
	switch to {
	case "":
		return misused("give --to: earliest, latest, an offset, a time, an age or a shift")
	case "earliest":
		r.To = &api.ResetOffsetsRequest_End_{End: api.ResetOffsetsRequest_END_EARLIEST}
		return nil
	case "latest":
		r.To = &api.ResetOffsetsRequest_End_{End: api.ResetOffsetsRequest_END_LATEST}
		return nil
	}
	if n, err := strconv.ParseInt(to, 10, 64); err == nil {
		if to[0] == '+' || to[0] == '-' {
			r.To = &api.ResetOffsetsRequest_Shift{Shift: n}
		} else {
			r.To = &api.ResetOffsetsRequest_Offset{Offset: n}
		}
		return nil
	}
	if at, err := time.Parse(time.RFC3339, to); err == nil {
		r.To = &api.ResetOffsetsRequest_TimeMs{TimeMs: at.UnixMilli()}
		return nil
	}
	if d, err := time.ParseDuration(to); err == nil && d >= 0 {
		r.To = &api.ResetOffsetsRequest_TimeMs{TimeMs: now.Add(-d).UnixMilli()}
		return nil
	}
	return misused("--to %q is none of earliest, latest, an offset, a time (2026-11-26T08:00:00Z), an age (90m), a shift (+100, -100)", to)
}

// topicPartitions reads TOPIC or TOPIC:0,3.
func topicPartitions(text string) (*api.TopicPartitions, error) {
	name, list, some := strings.Cut(text, ":")
	tp := &api.TopicPartitions{Topic: name}
	if !some {
		return tp, nil
	}
	for p := range strings.SplitSeq(list, ",") {
		n, err := strconv.ParseInt(p, 10, 32)
		if err != nil || n < 0 {
			return nil, misused("--topic %q: want TOPIC or TOPIC:PARTITION,..., found partition %q", text, p)
		}
		tp.Partitions = append(tp.Partitions, int32(n))
	}
	return tp, nil
}
