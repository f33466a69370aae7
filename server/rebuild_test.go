package server

import (
	"slices"
	"testing"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/journal/tier/object"
	"github.com/sluicemq/sluice/journal/tier/rebuild"
)

// What a transaction has written stays aborted where its marker was lost with the disk.
func TestAbortedWithoutMarker(t *testing.T) {
	p := &rebuild.Partition{End: 100, Aborted: []object.Aborted{
		{ProducerID: 7, First: 20, Last: 25}, {ProducerID: 8, First: 90, Last: 100}, {ProducerID: 9, First: 95, Last: 150}, {ProducerID: 7, First: 100, Last: 160},
	}}
	want := []broker.AbortedRange{{Producer: 7, First: 20, Last: 25}, {Producer: 8, First: 90, Last: 99}, {Producer: 9, First: 95, Last: 99}}
	if got := abortedOf(p); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}
