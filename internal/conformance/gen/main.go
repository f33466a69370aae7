// Command gen writes docs/mqtt-conformance.md. It owns nothing but the call; see internal/conformance.
package main

import (
	"fmt"
	"os"

	"github.com/sluicemq/sluice/internal/conformance"
)

func main() {
	root, err := conformance.Root()
	if err == nil {
		err = conformance.Generate(root)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}
