package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sluicemq/sluice/control/api"
)

func init() { register(newBindingCommand) }

// bindingRow is a binding in every output.
type bindingRow struct {
	Filter  string `json:"filter" yaml:"filter"`
	Topic   string `json:"topic" yaml:"topic"`
	Key     string `json:"key" yaml:"key"`
	Deliver string `json:"deliver" yaml:"deliver"`
	Source  string `json:"source" yaml:"source"`
}

func bindingRowOf(b *api.Binding) bindingRow {
	return bindingRow{b.Filter, b.Topic, b.Key, b.Deliver, b.Source}
}

var bindingHeader = []string{"FILTER", "TOPIC", "KEY", "DELIVER", "SOURCE"}

func (b *bindingRow) cells() []string { return []string{b.Filter, b.Topic, b.Key, b.Deliver, b.Source} }

func newBindingCommand() *cobra.Command {
	f := &controlFlags{}
	return f.group("binding", "Bind MQTT topics to streams, so that each protocol reads what the other has written",
		bindingAdd(f), bindingList(f), bindingDelete(f), bindingExplain(f))
}

func bindingAdd(f *controlFlags) *cobra.Command {
	r := &api.AddBindingRequest{}
	c := &cobra.Command{
		Use: "add FILTER --topic STREAM", Short: "Bind the MQTT topics that a filter matches to a stream", Args: exactly("FILTER"),
		Long: "Bind the MQTT topics that a filter matches to a stream, or change how they are bound. What is published to them from now on are records of the\n" +
			"stream. The stream is made if it is not there. Of several filters that match a topic the longest counts. Bindings of the configuration are\n" +
			"changed there.",
		Example: "  sluice binding add 'plant/+/temp' --topic temps\n  sluice binding add 'plant/#' --topic plants --key level:2 --deliver off --partitions 12",
		RunE: func(cmd *cobra.Command, args []string) error {
			if r.Topic == "" {
				return misused("give --topic")
			}
			r.Filter = args[0]
			return f.call(cmd, func(k *controlCall) error {
				b, err := ask(k, api.NewBindingsClient(k).Add, r)
				if err != nil {
					return err
				}
				row := bindingRowOf(b)
				return f.output.write(cmd.OutOrStdout(), &row, [][]string{bindingHeader, each(row.cells(), plain)})
			})
		},
	}
	c.Flags().StringVar(&r.Topic, "topic", "", "the stream")
	c.Flags().StringVar(&r.Key, "key", "topic", "key of a record: topic (the MQTT topic), level:N of it, or client (the publisher's id)")
	c.Flags().StringVar(&r.Deliver, "deliver", "key", "under which MQTT topic subscribers get records of Kafka clients: key, a template such as 'plant/${key}/temp', or off")
	c.Flags().Int32Var(&r.Partitions, "partitions", 0, "number of the stream's partitions, if it is made (default: kafka.partitions of the node)")
	f.output.add(c)
	_ = c.RegisterFlagCompletionFunc("topic", f.complete(0, completeTopics))
	_ = c.RegisterFlagCompletionFunc("key", cobra.FixedCompletions([]string{"topic", "level:", "client"}, cobra.ShellCompDirectiveNoFileComp))
	_ = c.RegisterFlagCompletionFunc("deliver", cobra.FixedCompletions([]string{"key", "off"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func bindingList(f *controlFlags) *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use: "list", Short: "List bindings, in the order in which they are tried", Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.call(cmd, func(k *controlCall) error {
				l := listing[bindingRow]{w: cmd.OutOrStdout(), o: f.output, header: bindingHeader, row: (*bindingRow).cells, limit: limit}
				return l.pages(func(token []byte) ([]bindingRow, []byte, error) {
					r, err := ask(k, api.NewBindingsClient(k).List, &api.ListBindingsRequest{PageToken: token})
					return each(r.GetBindings(), bindingRowOf), r.GetNextPageToken(), err
				})
			})
		},
	}
	c.Flags().IntVar(&limit, "limit", 0, "end after so many rows; 0: all")
	f.output.add(c)
	return c
}

func bindingDelete(f *controlFlags) *cobra.Command {
	c := &cobra.Command{
		Use: "delete FILTER...", Short: "Delete bindings; the streams and their records stay", Args: someOf("FILTER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.call(cmd, func(k *controlCall) error {
				return f.deleteAll(cmd, "binding", args, func(filter string) error {
					_, err := ask(k, api.NewBindingsClient(k).Delete, &api.DeleteBindingRequest{Filter: filter})
					return err
				})
			})
		},
	}
	c.ValidArgsFunction = f.complete(0, completeBindings)
	return c
}

func bindingExplain(f *controlFlags) *cobra.Command {
	r := &api.ExplainBindingRequest{}
	c := &cobra.Command{
		Use: "explain --topic TOPIC", Short: "Say what becomes of a message that is published to an MQTT topic", Args: atMost(0),
		Example: "  sluice binding explain --topic plant/1/temp --client pump",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if r.Topic == "" {
				return misused("give --topic")
			}
			return f.call(cmd, func(k *controlCall) error {
				e, err := ask(k, api.NewBindingsClient(k).Explain, r)
				if err != nil {
					return err
				}
				return f.explained(cmd, r.Topic, e)
			})
		},
	}
	c.Flags().StringVarP(&r.Topic, "topic", "t", "", "MQTT topic, without wildcards")
	c.Flags().StringVar(&r.Client, "client", "", "identifier of the client that publishes, for --key client")
	f.output.add(c)
	_ = c.RegisterFlagCompletionFunc("topic", cobra.NoFileCompletions)
	_ = c.RegisterFlagCompletionFunc("client", f.complete(0, completeClients))
	return c
}

func (f *controlFlags) explained(cmd *cobra.Command, topic string, e *api.ExplainBindingResponse) error {
	v := struct {
		Bound     bool         `json:"bound" yaml:"bound"`
		Binding   *bindingRow  `json:"binding" yaml:"binding"`
		Key       string       `json:"key" yaml:"key"`
		Partition int32        `json:"partition" yaml:"partition"`
		Others    []bindingRow `json:"others" yaml:"others"`
	}{Bound: e.Binding != nil, Key: e.Key, Partition: e.Partition, Others: each(e.Others, bindingRowOf)}
	rows := [][]string{{"topic", plain(topic)}, {"bound", "no: only subscribers and sessions get it"}}
	if e.Binding != nil {
		b := bindingRowOf(e.Binding)
		v.Binding = &b
		rows = [][]string{{"topic", plain(topic)}, {"bound by", plain(b.Filter)}, {"source", b.Source}, {"stream", b.Topic}, {"partition", number(e.Partition)},
			{"key", plain(e.Key)}, {"deliver", plain(b.Deliver)}}
	}
	for i := range v.Others {
		rows = append(rows, []string{"matches too", plain(fmt.Sprintf("%s, to %s", v.Others[i].Filter, v.Others[i].Topic))})
	}
	return f.output.write(cmd.OutOrStdout(), &v, rows)
}
