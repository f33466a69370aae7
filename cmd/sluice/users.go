package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluicemq/sluice/auth"
	"github.com/sluicemq/sluice/control/api"
)

func init() { register(newUserCommand) }

// userRow is a user in every output.
type userRow struct {
	Name       string   `json:"name" yaml:"name"`
	Source     string   `json:"source" yaml:"source"`
	Disabled   bool     `json:"disabled" yaml:"disabled"`
	Mechanisms []string `json:"mechanisms" yaml:"mechanisms"`
	Shadowed   bool     `json:"shadowed" yaml:"shadowed"`
}

func userRowOf(u *api.User) userRow {
	return userRow{u.Name, u.Source, u.Disabled, append([]string{}, u.Mechanisms...), u.Shadowed}
}

var userHeader = []string{"USER", "SOURCE", "STATE", "COMES IN BY"}

func (u *userRow) cells() []string {
	state := map[bool]string{true: "disabled", false: "enabled"}[u.Disabled]
	if u.Shadowed {
		state += ", in the catalog too"
	}
	return []string{u.Name, u.Source, state, orDash(strings.Join(u.Mechanisms, " "))}
}

func newUserCommand() *cobra.Command {
	f := &controlFlags{}
	return f.tenantGroup("user", "Add, list and delete users, and change their passwords, on a running node",
		userAdd(f), userList(f), userPasswd(f), userDisable(f, true), userDisable(f, false), userDelete(f))
}

const passwordLong = "The password is asked for, twice on a terminal, else it is one line from standard input. It never leaves this process: the node gets an\n" +
	"argon2id hash of it, and what SCRAM-SHA-256 and SCRAM-SHA-512 need."

// credentialsFrom asks for a password and makes of it what the node stores.
func credentialsFrom(cmd *cobra.Command, user string) (*api.Credentials, error) {
	password, err := readPassword(cmd.InOrStdin(), cmd.ErrOrStderr(), user)
	if err != nil {
		return nil, err
	}
	defer clear(password)
	a, err := auth.NewAccount(password)
	if err != nil {
		return nil, err
	}
	c := &api.Credentials{Password: a.Password}
	for _, m := range []struct {
		name string
		v    *auth.Verifier
	}{{auth.SCRAMSHA256, a.SHA256}, {auth.SCRAMSHA512, a.SHA512}} {
		c.Scram = append(c.Scram, &api.ScramCredential{Mechanism: m.name, Iterations: int32(m.v.Iterations), Salt: []byte(m.v.Salt),
			StoredKey: []byte(m.v.StoredKey), ServerKey: []byte(m.v.ServerKey)})
	}
	return c, nil
}

func (f *controlFlags) user(cmd *cobra.Command, u *api.User) error {
	row := userRowOf(u)
	cells := row.cells()
	cells[0] = plain(cells[0])
	return f.output.write(cmd.OutOrStdout(), &row, [][]string{userHeader, cells})
}

func userAdd(f *controlFlags) *cobra.Command {
	var disabled bool
	c := &cobra.Command{
		Use: "add USER", Short: "Add a user, who may come in by every protocol", Args: exactly("USER"), Long: "Add a user. " + passwordLong,
		Example: "  sluice user add plant-1\n  echo \"$PASSWORD\" | sluice user add plant-1",
		RunE: func(cmd *cobra.Command, args []string) error {
			creds, err := credentialsFrom(cmd, args[0])
			if err != nil {
				return err
			}
			return f.call(cmd, func(k *controlCall) error {
				u, err := ask(k, api.NewUsersClient(k).Add, &api.AddUserRequest{Name: args[0], Credentials: creds, Disabled: disabled})
				if err != nil {
					return err
				}
				return f.user(cmd, u)
			})
		},
	}
	c.Flags().BoolVar(&disabled, "disabled", false, "keep it out until it is enabled")
	f.output.add(c)
	return c
}

func userList(f *controlFlags) *cobra.Command {
	var contains string
	var limit int
	c := &cobra.Command{
		Use: "list", Short: "List users and where they come from", Args: atMost(0),
		Long: "List users: those of the catalog, which `sluice user` changes, and those of auth.password_file, which `sluice passwd --file` changes. For a\n" +
			"name that both have the file counts.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.call(cmd, func(k *controlCall) error {
				l := listing[userRow]{w: cmd.OutOrStdout(), o: f.output, header: userHeader, row: (*userRow).cells, limit: limit}
				return l.pages(func(token []byte) ([]userRow, []byte, error) {
					r, err := ask(k, api.NewUsersClient(k).List, &api.ListUsersRequest{PageToken: token, Contains: contains})
					return each(r.GetUsers(), userRowOf), r.GetNextPageToken(), err
				})
			})
		},
	}
	listFlags(c, f, &contains, &limit, "users whose name holds this text")
	return c
}

func userPasswd(f *controlFlags) *cobra.Command {
	c := &cobra.Command{
		Use: "passwd USER", Short: "Change a user's password", Args: exactly("USER"),
		Long: "Change a user's password; connections that came in by the old one are ended. " + passwordLong,
		RunE: func(cmd *cobra.Command, args []string) error {
			creds, err := credentialsFrom(cmd, args[0])
			if err != nil {
				return err
			}
			return f.call(cmd, func(k *controlCall) error {
				u, err := ask(k, api.NewUsersClient(k).SetPassword, &api.SetPasswordRequest{Name: args[0], Credentials: creds})
				if err != nil {
					return err
				}
				return f.user(cmd, u)
			})
		},
	}
	f.output.add(c)
	c.ValidArgsFunction = f.complete(1, completeUsers)
	return c
}

func userDisable(f *controlFlags, disabled bool) *cobra.Command {
	c := &cobra.Command{Use: "enable USER", Short: "Let a user in again", Args: exactly("USER")}
	if disabled {
		c.Use, c.Short = "disable USER", "Keep a user out, and end its connections"
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		return f.call(cmd, func(k *controlCall) error {
			u, err := ask(k, api.NewUsersClient(k).SetDisabled, &api.SetDisabledRequest{Name: args[0], Disabled: disabled})
			if err != nil {
				return err
			}
			return f.user(cmd, u)
		})
	}
	f.output.add(c)
	c.ValidArgsFunction = f.complete(1, completeUsers)
	return c
}

func userDelete(f *controlFlags) *cobra.Command {
	c := &cobra.Command{
		Use: "delete USER...", Short: "Delete users, and end their connections", Args: someOf("USER"),
		Long: "Delete users, and end their connections. Their sessions, rules and quotas stay.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.call(cmd, func(k *controlCall) error {
				return f.deleteAll(cmd, "user", args, func(name string) error {
					_, err := ask(k, api.NewUsersClient(k).Delete, &api.DeleteUserRequest{Name: name})
					return err
				})
			})
		},
	}
	c.ValidArgsFunction = f.complete(0, completeUsers)
	return c
}

// principal is how rules name a user.
func principal(user string) string {
	if user == "" {
		return ""
	}
	return fmt.Sprintf("User:%s", user)
}
