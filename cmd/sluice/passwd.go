package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sluicemq/sluice/auth"
)

func init() { register(newPasswd) }

type passwdFlags struct {
	file         string
	remove, list bool
	out          output
}

func newPasswd() *cobra.Command {
	var f passwdFlags
	c := &cobra.Command{
		Use: "passwd USER", Short: "Set, remove and list the users of a password file",
		Args: func(cmd *cobra.Command, args []string) error {
			if f.list {
				return atMost(0)(cmd, args)
			}
			return exactly("USER")(cmd, args)
		},
		Long: "Ask for a password, twice on a terminal, else one line from standard input, and write the user and an argon2id hash of\n" +
			"it into the file, in place of the user's line if there is one. Without --file the line goes to standard output.\n" +
			"A running node takes the file over when it is told to reload (SIGHUP).",
		Example: "  sluice passwd --file users plant-1\n  echo \"$PASSWORD\" | sluice passwd --file users plant-1\n" +
			"  sluice passwd --file users --delete plant-1\n  sluice passwd --file users --list",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			if f.list {
				return f.printUsers(cmd.OutOrStdout())
			}
			return f.run(cmd, args[0])
		},
	}
	c.Flags().StringVarP(&f.file, "file", "f", "", "password file (auth.password_file); made if it is not there")
	c.Flags().BoolVar(&f.remove, "delete", false, "take the user out of the file")
	c.Flags().BoolVar(&f.list, "list", false, "list the users of the file")
	f.out.add(c)
	_ = c.MarkFlagFilename("file")
	return c
}

func (f *passwdFlags) check() error {
	switch {
	case f.list && f.remove:
		return misused("--list and --delete do not go together")
	case f.file == "" && f.list:
		return misused("want --file with --list")
	case f.file == "" && f.remove:
		return misused("want --file with --delete")
	}
	return f.out.check()
}

// printUsers lists the names in the order of the file, if a node would take it.
func (f *passwdFlags) printUsers(w io.Writer) error {
	if _, err := auth.New(auth.Options{PasswordFile: f.file}); err != nil {
		return err
	}
	data, err := os.ReadFile(f.file)
	if err != nil {
		return err
	}
	users := []string{}
	var rows [][]string
	for line := range strings.Lines(string(data)) {
		if name, _, ok := strings.Cut(line, ":"); ok && !strings.HasPrefix(line, "#") {
			users = append(users, name)
			rows = append(rows, []string{name})
		}
	}
	return f.out.write(w, users, rows)
}

func (f *passwdFlags) run(cmd *cobra.Command, user string) error {
	if err := auth.CheckUser(user); err != nil {
		return misuse{err}
	}
	if f.remove {
		return auth.RemoveUser(f.file, user)
	}
	password, err := readPassword(cmd.InOrStdin(), cmd.ErrOrStderr(), user)
	if err != nil {
		return err
	}
	defer clear(password)
	line, err := auth.Hash(password, auth.DefaultParams)
	if err != nil {
		return err
	}
	if f.file == "" {
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s:%s\n", user, line)
		return err
	}
	replaced, err := auth.SetUser(f.file, user, line)
	if err != nil {
		return err
	}
	done := "added to"
	if replaced {
		done = "changed in"
	}
	_, err = fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s %s\n", user, done, f.file)
	return err
}

// passwordMax is MQTT's bound of a password.
const passwordMax = 65535

func readPassword(in io.Reader, prompt io.Writer, user string) ([]byte, error) {
	if file, ok := in.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		return askTwice(file, prompt, user)
	}
	line, err := bufio.NewReader(io.LimitReader(in, passwordMax+2)).ReadBytes('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
	if len(line) == 0 {
		return nil, errors.New("no password on standard input")
	}
	return line, nil
}

// askTwice leaves the terminal as it was, also when it is interrupted: without echo a shell would be left blind.
func askTwice(file *os.File, prompt io.Writer, user string) ([]byte, error) {
	fd := int(file.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return nil, err
	}
	signals, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer func() { signal.Stop(signals); close(done) }()
	go func() {
		select {
		case <-signals:
			_ = term.Restore(fd, before)
			_, _ = fmt.Fprintln(prompt)
			os.Exit(1) // a read from a terminal cannot be woken
		case <-done:
		}
	}()
	ask := func(what string) ([]byte, error) {
		_, _ = fmt.Fprintf(prompt, "%s for %s: ", what, user)
		defer fmt.Fprintln(prompt)
		return term.ReadPassword(fd)
	}
	one, err := ask("Password")
	if err != nil {
		return nil, err
	}
	two, err := ask("Again")
	if err != nil {
		return nil, err
	}
	defer clear(two)
	if !bytes.Equal(one, two) {
		clear(one)
		return nil, errors.New("the two passwords differ; nothing was written")
	}
	return one, nil
}
