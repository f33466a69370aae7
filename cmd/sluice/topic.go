package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluicemq/sluice/control/api"
)

func init() { register(newTopicCommand) }

// topicRow is a topic in every output.
type topicRow struct {
	Name       string            `json:"name" yaml:"name"`
	Partitions int32             `json:"partitions" yaml:"partitions"`
	Records    int64             `json:"records" yaml:"records"`
	Bytes      int64             `json:"bytes" yaml:"bytes"`
	Settings   map[string]string `json:"settings" yaml:"settings"`
	Internal   bool              `json:"internal" yaml:"internal"`
	ID         string            `json:"id" yaml:"id"`
	Replicas   int32             `json:"replicas" yaml:"replicas"` // of each partition
}

func topicRowOf(t *api.Topic) topicRow {
	s := t.Settings
	if s == nil {
		s = map[string]string{}
	}
	return topicRow{t.Name, t.Partitions, t.Records, t.Bytes, s, t.Internal, t.Id, t.Replicas}
}

func (t *topicRow) settings() string {
	var list []string
	for k, v := range t.Settings {
		list = append(list, k+"="+v)
	}
	slices.Sort(list)
	return orDash(strings.Join(list, " "))
}

var topicHeader = []string{"NAME", "PARTITIONS", "RECORDS", "SIZE", "SETTINGS"}

func (t *topicRow) cells() []string {
	return []string{t.Name, number(t.Partitions), number(t.Records), sizeText(t.Bytes), t.settings()}
}

// topicView is what describe prints.
type topicView struct {
	topicRow   `yaml:",inline"`
	All        []settingRow   `json:"config" yaml:"config"`
	Partitions []partitionRow `json:"partition_list" yaml:"partition_list"`
}

type settingRow struct {
	Key     string `json:"key" yaml:"key"`
	Value   string `json:"value" yaml:"value"`
	Default string `json:"default" yaml:"default"`
	Set     bool   `json:"set" yaml:"set"`
}

type partitionRow struct {
	Partition     int32 `json:"partition" yaml:"partition"`
	LogStart      int64 `json:"log_start" yaml:"log_start"`
	HighWatermark int64 `json:"high_watermark" yaml:"high_watermark"`
	LastStable    int64 `json:"last_stable" yaml:"last_stable"`
	Bytes         int64 `json:"bytes" yaml:"bytes"`
}

func newTopicCommand() *cobra.Command {
	f := &controlFlags{}
	return f.tenantGroup("topic", "Create, list, describe, alter and delete topics",
		topicCreate(f), topicList(f), topicDescribe(f), topicAlter(f), topicDelete(f))
}

// pairs reads KEY=VALUE flags.
func pairs(flag string, list []string) (map[string]string, error) {
	m := make(map[string]string)
	for _, p := range list {
		k, v, ok := strings.Cut(p, "=")
		if !ok || k == "" {
			return nil, misused("--%s %q is not KEY=VALUE", flag, p)
		}
		m[k] = v
	}
	return m, nil
}

func topicCreate(f *controlFlags) *cobra.Command {
	var partitions, replicas int32
	var set []string
	var dry bool
	c := &cobra.Command{
		Use: "create TOPIC", Short: "Create a topic", Args: exactly("TOPIC"),
		Long:    "Create a topic. It is on stable storage when the command ends. Settings are those of Kafka's topics: `sluice topic describe` shows all.",
		Example: "  sluice topic create orders --partitions 12\n  sluice topic create state --set cleanup.policy=compact",
		RunE: func(cmd *cobra.Command, args []string) error {
			settings, err := pairs("set", set)
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("partitions") && partitions < 1 {
				return misused("--partitions %d: want at least 1", partitions)
			}
			if cmd.Flags().Changed("replicas") && replicas < 1 {
				return misused("--replicas %d: want at least 1", replicas)
			}
			return f.call(cmd, func(k *controlCall) error {
				t, err := ask(k, api.NewTopicsClient(k).Create, &api.CreateTopicRequest{Name: args[0], Partitions: partitions, Settings: settings, ValidateOnly: dry, Replicas: replicas})
				if err != nil {
					return err
				}
				return f.topic(cmd, t)
			})
		},
	}
	c.Flags().Int32Var(&partitions, "partitions", 0, "number of partitions (default: kafka.partitions of the node)")
	c.Flags().Int32Var(&replicas, "replicas", 0, "replicas of each partition: those of sets of shards that have as many, over which it is spread (default: as many as the cluster gives)")
	c.Flags().StringArrayVar(&set, "set", nil, "set one of its settings: KEY=VALUE; may be repeated")
	c.Flags().BoolVar(&dry, "dry-run", false, "say what would come of it, and change nothing")
	f.output.add(c)
	_ = c.RegisterFlagCompletionFunc("set", cobra.NoFileCompletions)
	return c
}

// topic prints one.
func (f *controlFlags) topic(cmd *cobra.Command, t *api.Topic) error {
	row := topicRowOf(t)
	return f.output.write(cmd.OutOrStdout(), &row, [][]string{topicHeader, row.cells()})
}

func topicList(f *controlFlags) *cobra.Command {
	var contains string
	var limit int
	var internal bool
	c := &cobra.Command{
		Use: "list", Short: "List topics with their sizes", Args: atMost(0),
		Long: "List topics in the order of their names, with partitions, records (offsets between the start and the end of their logs) and stored bytes.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.call(cmd, func(k *controlCall) error {
				l := listing[topicRow]{w: cmd.OutOrStdout(), o: f.output, header: topicHeader, row: (*topicRow).cells, limit: limit}
				return l.pages(func(token []byte) ([]topicRow, []byte, error) {
					r, err := ask(k, api.NewTopicsClient(k).List, &api.ListTopicsRequest{PageToken: token, Contains: contains, Internal: internal})
					if err != nil {
						return nil, nil, err
					}
					return each(r.Topics, topicRowOf), r.NextPageToken, nil
				})
			})
		},
	}
	listFlags(c, f, &contains, &limit, "names that hold this text")
	c.Flags().BoolVar(&internal, "internal", false, "the node's own too, such as __consumer_offsets")
	return c
}

// listFlags are those of every listing.
func listFlags(c *cobra.Command, f *controlFlags, contains *string, limit *int, what string) {
	c.Flags().StringVar(contains, "contains", "", "only "+what)
	c.Flags().IntVar(limit, "limit", 0, "end after so many rows; 0: all")
	_ = c.RegisterFlagCompletionFunc("contains", cobra.NoFileCompletions)
	f.output.add(c)
}

func each[A, B any](list []A, fn func(A) B) []B {
	out := make([]B, len(list))
	for i, e := range list {
		out[i] = fn(e)
	}
	return out
}

func topicDescribe(f *controlFlags) *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use: "describe TOPIC", Short: "Show a topic's settings, partitions and offsets", Args: exactly("TOPIC"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.call(cmd, func(k *controlCall) error {
				d, err := ask(k, api.NewTopicsClient(k).Describe, &api.DescribeTopicRequest{Name: args[0]})
				if err != nil {
					return err
				}
				return f.describeTopic(cmd, d, all)
			})
		},
	}
	c.Flags().BoolVar(&all, "all", false, "in the table, settings that have their defaults too")
	f.output.add(c)
	c.ValidArgsFunction = f.complete(1, completeTopics)
	return c
}

func (f *controlFlags) describeTopic(cmd *cobra.Command, d *api.TopicDescription, all bool) error {
	v := topicView{topicRow: topicRowOf(d.Topic), All: []settingRow{}, Partitions: []partitionRow{}}
	rows := [][]string{{"topic", v.Name}, {"id", v.ID}, {"partitions", number(d.Topic.Partitions)}, {"replicas", number(v.Replicas)}, {"records", number(v.Records)}, {"size", sizeText(v.Bytes)}}
	for _, s := range d.Settings {
		v.All = append(v.All, settingRow{s.Key, s.Value, s.Default, s.Set})
		if s.Set || all {
			rows = append(rows, []string{s.Key, plain(s.Value) + map[bool]string{true: "", false: " (default)"}[s.Set]})
		}
	}
	for _, p := range d.Partitions {
		v.Partitions = append(v.Partitions, partitionRow{p.Partition, p.LogStart, p.HighWatermark, p.LastStable, p.Bytes})
	}
	if err := f.output.write(cmd.OutOrStdout(), &v, rows); err != nil || f.output != "table" {
		return err
	}
	fmt.Fprintln(cmd.OutOrStdout())
	table := [][]string{{"PARTITION", "LOG START", "HIGH WATERMARK", "LAST STABLE", "SIZE"}}
	for _, p := range v.Partitions {
		table = append(table, []string{number(p.Partition), number(p.LogStart), number(p.HighWatermark), number(p.LastStable), sizeText(p.Bytes)})
	}
	return f.output.write(cmd.OutOrStdout(), nil, table)
}

func topicAlter(f *controlFlags) *cobra.Command {
	var partitions int32
	var set, reset []string
	var dry, breakOrder bool
	c := &cobra.Command{
		Use: "alter TOPIC", Short: "Change a topic's settings, or add partitions", Args: exactly("TOPIC"),
		Long: "Change a topic's settings, or add partitions: keys then go to other partitions than before, so their order breaks; a topic that a\n" +
			"binding names gets them with --break-order only.",
		Example: "  sluice topic alter orders --set retention.ms=604800000 --reset max.message.bytes\n  sluice topic alter orders --partitions 24",
		RunE: func(cmd *cobra.Command, args []string) error {
			settings, err := pairs("set", set)
			if err != nil {
				return err
			}
			for _, k := range reset {
				if _, both := settings[k]; both {
					return misused("%s is in --set and in --reset", k)
				}
			}
			if len(settings)+len(reset) == 0 && partitions == 0 {
				return misused("give --set, --reset or --partitions: nothing is to be changed")
			}
			return f.call(cmd, func(k *controlCall) error {
				t, err := ask(k, api.NewTopicsClient(k).Alter, &api.AlterTopicRequest{Name: args[0], Partitions: partitions, Set: settings, Reset_: reset, ValidateOnly: dry, BreakOrder: breakOrder})
				if err != nil {
					return err
				}
				return f.topic(cmd, t)
			})
		},
	}
	c.Flags().Int32Var(&partitions, "partitions", 0, "number of partitions, more than there are")
	c.Flags().BoolVar(&breakOrder, "break-order", false, "add partitions to a topic that is bound to MQTT topics, whose order that breaks")
	c.Flags().StringArrayVar(&set, "set", nil, "set one of its settings: KEY=VALUE; may be repeated")
	c.Flags().StringArrayVar(&reset, "reset", nil, "give one of its settings its default; may be repeated")
	c.Flags().BoolVar(&dry, "dry-run", false, "say what would come of it, and change nothing")
	f.output.add(c)
	_ = c.RegisterFlagCompletionFunc("set", cobra.NoFileCompletions)
	_ = c.RegisterFlagCompletionFunc("reset", cobra.NoFileCompletions)
	c.ValidArgsFunction = f.complete(1, completeTopics)
	return c
}

func topicDelete(f *controlFlags) *cobra.Command {
	c := &cobra.Command{
		Use: "delete TOPIC...", Short: "Delete topics with their records", Args: someOf("TOPIC"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.call(cmd, func(k *controlCall) error {
				return f.deleteAll(cmd, "topic", args, func(name string) error {
					_, err := ask(k, api.NewTopicsClient(k).Delete, &api.DeleteTopicRequest{Name: name})
					return err
				})
			})
		},
	}
	c.ValidArgsFunction = f.complete(0, completeTopics)
	return c
}

// deleteAll deletes one after the other and says so; the first that fails ends it.
func (f *controlFlags) deleteAll(cmd *cobra.Command, what string, names []string, del func(name string) error) error {
	for _, name := range names {
		if err := del(name); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "deleted %s %s\n", what, plain(name))
	}
	return nil
}
