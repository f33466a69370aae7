package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sluicemq/sluice/control/api"
)

func init() { register(newACLCommand) }

// aclRow is a rule in every output.
type aclRow struct {
	Source     string `json:"source" yaml:"source"`
	Permission string `json:"permission" yaml:"permission"`
	Principal  string `json:"principal" yaml:"principal"`
	Host       string `json:"host" yaml:"host"`
	Operation  string `json:"operation" yaml:"operation"`
	Resource   string `json:"resource" yaml:"resource"`
	Pattern    string `json:"pattern" yaml:"pattern"`
	Name       string `json:"name" yaml:"name"`
	Line       string `json:"line" yaml:"line"` // of auth.acl_file
}

func aclRowOf(a *api.Acl) aclRow {
	return aclRow{a.Source, a.Permission, a.Principal, a.Host, a.Operation, a.Resource, a.Pattern, a.Name, a.Line}
}

var aclHeader = []string{"PERMISSION", "PRINCIPAL", "HOST", "OPERATION", "RESOURCE", "PATTERN", "NAME", "SOURCE"}

func (a *aclRow) cells() []string {
	if a.Line != "" {
		return []string{"-", "-", "-", "-", "-", "-", a.Line, a.Source}
	}
	return []string{a.Permission, a.Principal, a.Host, a.Operation, a.Resource, a.Pattern, a.Name, a.Source}
}

// aclFlags say which resource and whom a rule is about.
type aclFlags struct {
	user, host, topic, group, txn string
	operations                    []string
	prefixed, cluster, deny       bool
}

var (
	operationNames = []string{"publish", "subscribe", "read", "write", "create", "delete", "alter", "describe", "describe-configs", "alter-configs",
		"cluster-action", "idempotent-write", "two-phase-commit", "all"}
)

func (a *aclFlags) add(c *cobra.Command, f *controlFlags) {
	fs := c.Flags()
	fs.StringVar(&a.user, "user", "", "user name, * for everybody, ANONYMOUS for those without credentials")
	fs.StringVar(&a.topic, "topic", "", "topic: a stream, or an MQTT topic or filter; * for all")
	fs.StringVar(&a.group, "group", "", "consumer group; * for all")
	fs.StringVar(&a.txn, "transactional-id", "", "transactional id; * for all")
	fs.BoolVar(&a.cluster, "cluster", false, "the cluster itself")
	_ = c.RegisterFlagCompletionFunc("user", f.complete(0, completeUsers))
	_ = c.RegisterFlagCompletionFunc("topic", f.complete(0, completeTopics))
	_ = c.RegisterFlagCompletionFunc("group", f.complete(0, completeGroups))
	_ = c.RegisterFlagCompletionFunc("transactional-id", cobra.NoFileCompletions)
}

// addRule adds what only rules have, and not questions.
func (a *aclFlags) addRule(c *cobra.Command, host string) {
	fs := c.Flags()
	fs.StringSliceVar(&a.operations, "operation", nil, "publish, subscribe, or one of Kafka's: read, write, create, …, all; may be repeated")
	fs.BoolVar(&a.prefixed, "prefix", false, "the name is the beginning of names")
	fs.StringVar(&a.host, "host", host, "address of the client; * for all")
	fs.BoolVar(&a.deny, "deny", false, "deny, which counts before all that allow")
	_ = c.RegisterFlagCompletionFunc("operation", cobra.FixedCompletions(operationNames, cobra.ShellCompDirectiveNoFileComp))
	_ = c.RegisterFlagCompletionFunc("host", cobra.NoFileCompletions)
}

// resource is the one that was named.
func (a *aclFlags) resource(must bool) (kind, name string, err error) {
	n := 0
	for _, r := range []struct{ kind, name string }{{"topic", a.topic}, {"group", a.group}, {"transactional-id", a.txn}} {
		if r.name != "" {
			kind, name = r.kind, r.name
			n++
		}
	}
	if a.cluster {
		kind, name = "cluster", "kafka-cluster"
		n++
	}
	if n > 1 || must && n == 0 {
		return "", "", misused("give one of --topic, --group, --transactional-id and --cluster")
	}
	return kind, name, nil
}

func newACLCommand() *cobra.Command {
	f := &controlFlags{}
	return f.tenantGroup("acl", "Add, list, delete and check rules: who may do what", aclAdd(f), aclList(f), aclDelete(f), aclCheck(f))
}

func aclAdd(f *controlFlags) *cobra.Command {
	a := &aclFlags{}
	c := &cobra.Command{
		Use: "add --user USER --operation OPERATION --topic TOPIC", Short: "Add rules", Args: atMost(0),
		Long: "Add a rule for each --operation. Rules are Kafka's, and count for MQTT as well: to publish is to write to a topic, to subscribe is to read it; a\n" +
			"literal topic may be an MQTT filter. One that denies counts before all that allow.",
		Example: "  sluice acl add --user plant-1 --operation publish --topic 'plant/1/#'\n" +
			"  sluice acl add --user billing --operation read --topic orders --group billing\n  sluice acl add --user '*' --deny --operation write --topic audit --prefix",
		RunE: func(cmd *cobra.Command, _ []string) error {
			req, err := a.rules()
			if err != nil {
				return err
			}
			return f.call(cmd, func(k *controlCall) error {
				r, err := ask(k, api.NewAclsClient(k).Add, req)
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "added %d %s", r.Added, plural(r.Added, "rule"))
				if there := int64(len(req.Acls)) - r.Added; there > 0 {
					fmt.Fprintf(cmd.OutOrStdout(), "; %d there already", there)
				}
				fmt.Fprintln(cmd.OutOrStdout())
				return nil
			})
		},
	}
	a.add(c, f)
	a.addRule(c, "*")
	return c
}

// rules makes rules of the flags.
func (a *aclFlags) rules() (*api.AddAclsRequest, error) {
	switch {
	case a.user == "":
		return nil, misused("give --user")
	case len(a.operations) == 0:
		return nil, misused("give --operation")
	}
	named := []struct{ kind, name string }{{"topic", a.topic}, {"group", a.group}, {"transactional-id", a.txn}}
	if a.cluster {
		named = append(named, struct{ kind, name string }{"cluster", "kafka-cluster"})
	}
	r := &api.AddAclsRequest{}
	for _, n := range named {
		if n.name == "" {
			continue
		}
		for _, op := range a.operations {
			r.Acls = append(r.Acls, &api.Acl{Resource: n.kind, Pattern: a.pattern(), Name: n.name, Principal: principal(a.user), Host: a.host, Operation: op,
				Permission: a.permission()})
		}
	}
	if len(r.Acls) == 0 {
		return nil, misused("give --topic, --group, --transactional-id or --cluster")
	}
	return r, nil
}

func (a *aclFlags) pattern() string {
	return map[bool]string{true: "prefixed", false: "literal"}[a.prefixed]
}

func (a *aclFlags) permission() string { return map[bool]string{true: "deny", false: "allow"}[a.deny] }

// filter makes a filter of the flags.
func (a *aclFlags) filter() (*api.AclFilter, error) {
	kind, name, err := a.resource(false)
	if err != nil {
		return nil, err
	}
	if len(a.operations) > 1 {
		return nil, misused("give one --operation")
	}
	r := &api.AclFilter{Resource: kind, Name: name, Principal: principal(a.user), Host: a.host}
	if len(a.operations) == 1 {
		r.Operation = a.operations[0]
	}
	if a.prefixed {
		r.Pattern = "prefixed"
	}
	if a.deny {
		r.Permission = "deny"
	}
	return r, nil
}

func aclList(f *controlFlags) *cobra.Command {
	a := &aclFlags{}
	var limit int
	var about bool
	c := &cobra.Command{
		Use: "list", Short: "List rules and where they come from", Args: atMost(0),
		Long: "List rules: the lines of auth.acl_file, which are asked first, and those of the catalog. With a flag that picks, those of the catalog that it\n" +
			"picks. --about takes --topic and its like as the name of a resource, and shows every rule whose pattern covers it.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter, err := a.filter()
			if err != nil {
				return err
			}
			if about {
				if filter.Name == "" {
					return misused("--about needs --topic, --group, --transactional-id or --cluster")
				}
				filter.Pattern = "match"
			}
			return f.call(cmd, func(k *controlCall) error {
				l := listing[aclRow]{w: cmd.OutOrStdout(), o: f.output, header: aclHeader, row: (*aclRow).cells, limit: limit}
				return l.pages(func(token []byte) ([]aclRow, []byte, error) {
					r, err := ask(k, api.NewAclsClient(k).List, &api.ListAclsRequest{Filter: filter, PageToken: token})
					return each(r.GetAcls(), aclRowOf), r.GetNextPageToken(), err
				})
			})
		},
	}
	a.add(c, f)
	a.addRule(c, "")
	c.Flags().BoolVar(&about, "about", false, "every rule that is about the resource, by whatever pattern")
	c.Flags().IntVar(&limit, "limit", 0, "end after so many rows; 0: all")
	f.output.add(c)
	return c
}

func aclDelete(f *controlFlags) *cobra.Command {
	a := &aclFlags{}
	var all, dry bool
	c := &cobra.Command{
		Use: "delete", Short: "Delete the rules of the catalog that the flags pick", Args: atMost(0),
		Example: "  sluice acl delete --user plant-1 --dry-run\n  sluice acl delete --topic orders --operation read",
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter, err := a.filter()
			if err != nil {
				return err
			}
			return f.call(cmd, func(k *controlCall) error {
				r, err := ask(k, api.NewAclsClient(k).Delete, &api.DeleteAclsRequest{Filter: filter, All: all, ValidateOnly: dry})
				if err != nil {
					return err
				}
				l := listing[aclRow]{w: cmd.OutOrStdout(), o: f.output, header: aclHeader, row: (*aclRow).cells}
				if err := l.pages(func([]byte) ([]aclRow, []byte, error) { return each(r.Acls, aclRowOf), nil, nil }); err != nil || f.output != "table" {
					return err
				}
				done := "deleted"
				if dry {
					done = "would delete"
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s %d %s\n", done, r.Deleted, plural(r.Deleted, "rule"))
				return err
			})
		},
	}
	a.add(c, f)
	a.addRule(c, "")
	c.Flags().BoolVar(&all, "all", false, "all rules of the catalog")
	c.Flags().BoolVar(&dry, "dry-run", false, "say which, and change nothing")
	f.output.add(c)
	return c
}

func aclCheck(f *controlFlags) *cobra.Command {
	a := &aclFlags{}
	var operation, client, address string
	c := &cobra.Command{
		Use: "check --user USER --operation OPERATION --topic TOPIC", Short: "Say whether a user may do something, and why", Args: atMost(0),
		Long: "Say whether a user may do something, what has decided, and which rules of the catalog are about it. The exit code is 1 if it may not.",
		Example: "  sluice acl check --user plant-1 --operation publish --topic plant/1/temp\n" +
			"  sluice acl check --user billing --operation read --group billing",
		RunE: func(cmd *cobra.Command, _ []string) error {
			kind, name, err := a.resource(true)
			switch {
			case err != nil:
				return err
			case operation == "":
				return misused("give --operation")
			}
			return f.call(cmd, func(k *controlCall) error {
				r, err := ask(k, api.NewAclsClient(k).Check, &api.CheckAclRequest{User: a.user, Operation: operation, Resource: kind, Name: name, Client: client, Host: address})
				if err != nil {
					return err
				}
				return f.checked(cmd, r)
			})
		},
	}
	a.add(c, f)
	c.Flags().StringVar(&operation, "operation", "", "publish, subscribe, or one of Kafka's: read, write, create, …")
	c.Flags().StringVar(&client, "client", "", "the client's identifier, which lines of auth.acl_file may name")
	c.Flags().StringVar(&address, "address", "", "the client's address (default 127.0.0.1)")
	f.output.add(c)
	_ = c.RegisterFlagCompletionFunc("operation", cobra.FixedCompletions(operationNames[:len(operationNames)-1], cobra.ShellCompDirectiveNoFileComp))
	_ = c.RegisterFlagCompletionFunc("client", f.complete(0, completeClients))
	_ = c.RegisterFlagCompletionFunc("address", cobra.NoFileCompletions)
	return c
}

// errDenied has been said already.
var errDenied = errors.New("denied")

func (f *controlFlags) checked(cmd *cobra.Command, r *api.CheckAclResponse) error {
	v := struct {
		Allowed bool     `json:"allowed" yaml:"allowed"`
		Why     string   `json:"why" yaml:"why"`
		Rules   []aclRow `json:"rules" yaml:"rules"`
	}{r.Allowed, r.Why, each(r.Acls, aclRowOf)}
	word := map[bool]string{true: "allowed", false: "denied"}[r.Allowed]
	if err := f.output.write(cmd.OutOrStdout(), &v, [][]string{{word + ": " + r.Why}}); err != nil {
		return err
	}
	if f.output == "table" && len(v.Rules) > 0 {
		table := [][]string{aclHeader}
		for i := range v.Rules {
			cells := v.Rules[i].cells()
			for k := range cells {
				cells[k] = plain(cells[k])
			}
			table = append(table, cells)
		}
		fmt.Fprintln(cmd.OutOrStdout())
		if err := f.output.write(cmd.OutOrStdout(), nil, table); err != nil {
			return err
		}
	}
	if !r.Allowed {
		return silent{errDenied}
	}
	return nil
}
