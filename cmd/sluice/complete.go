package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicemq/sluice/control/api"
)

// completeTimeout is how long a completion may ask a node.
const completeTimeout = 2 * time.Second

// someOf wants at least one argument.
func someOf(name string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return misused("%s is missing", name)
		}
		return nil
	}
}

// complete offers what a node has for the first n arguments, or for all for 0. A node that does not answer offers nothing.
func (f *controlFlags) complete(n int, names func(ctx context.Context, k *controlCall, typed string) ([]string, error)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if n > 0 && len(args) >= n {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		conn, err := f.dial()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer conn.Close()
		parent := cmd.Context()
		if parent == nil {
			parent = context.Background()
		}
		ctx, cancel := context.WithTimeout(parent, completeTimeout)
		defer cancel()
		list, err := names(ctx, &controlCall{ClientConn: conn, cmd: cmd, f: f}, typed)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return list, cobra.ShellCompDirectiveNoFileComp
	}
}

func completeTopics(ctx context.Context, k *controlCall, typed string) ([]string, error) {
	r, err := api.NewTopicsClient(k).List(ctx, &api.ListTopicsRequest{Contains: typed})
	return each(r.GetTopics(), (*api.Topic).GetName), err
}

func completeClients(ctx context.Context, k *controlCall, typed string) ([]string, error) {
	r, err := api.NewClientsClient(k).List(ctx, &api.ListClientsRequest{Contains: typed})
	return each(r.GetClients(), (*api.Client).GetId), err
}

func completeSessions(ctx context.Context, k *controlCall, typed string) ([]string, error) {
	r, err := api.NewSessionsClient(k).List(ctx, &api.ListSessionsRequest{Contains: typed})
	return each(r.GetSessions(), (*api.Session).GetId), err
}

func completeGroups(ctx context.Context, k *controlCall, typed string) ([]string, error) {
	r, err := api.NewGroupsClient(k).List(ctx, &api.ListGroupsRequest{Contains: typed})
	return each(r.GetGroups(), (*api.Group).GetId), err
}

func completeUsers(ctx context.Context, k *controlCall, typed string) ([]string, error) {
	r, err := api.NewUsersClient(k).List(ctx, &api.ListUsersRequest{Contains: typed})
	return each(r.GetUsers(), (*api.User).GetName), err
}

func completeBindings(ctx context.Context, k *controlCall, _ string) ([]string, error) {
	r, err := api.NewBindingsClient(k).List(ctx, &api.ListBindingsRequest{})
	return each(r.GetBindings(), (*api.Binding).GetFilter), err
}
