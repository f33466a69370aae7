// Command kafkago drives a node with the Kafka clients sarama and segmentio/kafka-go, and prints PASS or FAIL for each thing done.
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// patience bounds each test.
const patience = 40 * time.Second

var addresses = strings.Split(os.Getenv("SLUICE_KAFKA"), ",")

// test is one thing done; what it returns is why it failed.
type test struct {
	name string
	run  func(context.Context) error
}

func main() {
	failed := 0
	for _, t := range append(saramaTests, segmentioTests...) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		done := make(chan error, 1)
		go func() { done <- t.run(ctx) }()
		var err error
		select {
		case err = <-done:
		case <-time.After(patience + 5*time.Second):
			err = fmt.Errorf("it does not end")
		}
		cancel()
		if err != nil {
			failed++
			fmt.Printf("FAIL %s: %q\n", t.name, err)
			continue
		}
		fmt.Printf("PASS %s\n", t.name)
	}
	if failed > 0 {
		os.Exit(1)
	}
}

// number is a record's value.
func number(i int) string { return strconv.Itoa(i) }

// inOrder says whether values are 0, 1, 2 … n-1.
func inOrder(values []string, n int) error {
	if len(values) != n {
		return fmt.Errorf("%d records of %d", len(values), n)
	}
	for i, v := range values {
		if v != number(i) {
			return fmt.Errorf("record %d is %q", i, v)
		}
	}
	return nil
}
