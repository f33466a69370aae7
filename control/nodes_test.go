package control_test

import (
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/sluicemq/sluice/control/api"
)

// A node that is alone has no nodes to list or change, and says what would give it some.
func TestNodesOfALoneNode(t *testing.T) {
	n := start(t)
	c := api.NewNodesClient(n.conn)
	_, err := c.List(t.Context(), &api.ListNodesRequest{})
	wants(t, err, codes.FailedPrecondition, "listeners.cluster")
	_, err = c.Add(t.Context(), &api.AddNodeRequest{Id: 2, Address: "h:1"})
	wants(t, err, codes.FailedPrecondition, "alone")
	_, err = c.Remove(t.Context(), &api.RemoveNodeRequest{Id: 2})
	wants(t, err, codes.FailedPrecondition, "alone")
	_, err = c.Replace(t.Context(), &api.ReplaceNodeRequest{Id: 2})
	wants(t, err, codes.FailedPrecondition, "alone")
}
