// Package stores is the list of the stores that there are, each by the name that the configuration gives it. It owns nothing; a new store is
// a folder beside journal/tier/localtier, and a line here. docs/tiers.md says how one is written.
package stores

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/hdfstier"
	"github.com/sluicemq/sluice/journal/tier/localtier"
	"github.com/sluicemq/sluice/journal/tier/s3tier"
)

var kinds = map[string]func(context.Context, *tier.Settings) (tier.Store, error){
	"local": localtier.FromSettings,
	"s3":    s3tier.FromSettings,
	"hdfs":  hdfstier.FromSettings,
}

// Kinds are the names of the stores, sorted.
func Kinds() []string { return slices.Sorted(maps.Keys(kinds)) }

// Open opens a store of a kind. What the settings have wrong is told all at once.
func Open(ctx context.Context, kind string, settings map[string]string) (tier.Store, error) {
	open := kinds[kind]
	if open == nil {
		return nil, fmt.Errorf("no store is named %q; there are %s", kind, strings.Join(Kinds(), ", "))
	}
	s, err := open(ctx, tier.NewSettings(settings))
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", kind, err)
	}
	return s, nil
}

// Check tells what a kind's settings have wrong, without opening anything. nil: nothing.
func Check(kind string, settings map[string]string) error {
	open := kinds[kind]
	if open == nil {
		return fmt.Errorf("no store is named %q; there are %s", kind, strings.Join(Kinds(), ", "))
	}
	s := tier.NewSettings(settings)
	s.CheckOnly()
	if _, err := open(context.Background(), s); !errors.Is(err, tier.ErrChecked) {
		return err
	}
	return nil
}
