package main

import (
	"runtime"
	"runtime/debug"
	"strconv"

	"github.com/spf13/cobra"
)

func init() { register(newVersion) }

// journalFormat is the format of data directories that this program writes: journal/FORMAT. A test holds it against a new one.
const journalFormat = 1

// build is what sluice version tells.
type build struct {
	Version       string `json:"version" yaml:"version"`
	Commit        string `json:"commit,omitempty" yaml:"commit,omitempty"`
	CommitTime    string `json:"commit_time,omitempty" yaml:"commit_time,omitempty"`
	Modified      bool   `json:"modified,omitempty" yaml:"modified,omitempty"`
	Go            string `json:"go" yaml:"go"`
	Platform      string `json:"platform" yaml:"platform"`
	JournalFormat int    `json:"journal_format" yaml:"journal_format"`
}

func newVersion() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use: "version", Short: "Tell what this program is", Args: atMost(0),
		Long: "Tell the version, the commit where the build knows it, the Go release, and the format of the data directories it writes.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			b := thisBuild()
			return out.write(cmd.OutOrStdout(), b, b.rows())
		},
	}
	out.add(c)
	return c
}

func thisBuild() build {
	b := build{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, JournalFormat: journalFormat}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.time":
			b.CommitTime = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

func (b build) rows() [][]string {
	rows := [][]string{{"version", b.Version}}
	if b.Commit != "" {
		commit := b.Commit
		if b.Modified {
			commit += ", modified"
		}
		rows = append(rows, []string{"commit", commit}, []string{"commit time", b.CommitTime})
	}
	return append(rows, []string{"go", b.Go}, []string{"platform", b.Platform}, []string{"journal format", strconv.Itoa(b.JournalFormat)})
}
