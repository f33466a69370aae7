// Command sluice is the broker and its tools in one binary. It holds no logic: each subcommand calls the package that has it.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = "dev"

// commands make the subcommands; each file of this package adds its own.
var commands []func() *cobra.Command

func register(f func() *cobra.Command) { commands = append(commands, f) }

// misuse marks an error of the command line: exit code 2.
type misuse struct{ error }

// Unwrap gives the cause.
func (m misuse) Unwrap() error { return m.error }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use: "sluice", Short: "One message platform in one binary", SilenceErrors: true, SilenceUsage: true, Version: version,
	}
	for _, f := range commands {
		root.AddCommand(f())
	}
	finish(root)
	return root
}

func main() {
	err := newRoot().Execute()
	if err == nil {
		return
	}
	var quiet silent
	if !errors.As(err, &quiet) {
		fmt.Fprintln(os.Stderr, "sluice:", err)
	}
	var m misuse
	if errors.As(err, &m) {
		os.Exit(2)
	}
	var nothing noResult
	if errors.As(err, &nothing) {
		os.Exit(3)
	}
	os.Exit(1)
}

// silent is a failure that has been reported already.
type silent struct{ error }
