package config

import (
	"errors"
	"maps"
	"strings"
	"testing"
)

// Settings of a store come from all sources, one by one, and secrets are shown by none.
func TestTierSettings(t *testing.T) {
	file := write(t, "sluice.yaml", "tier:\n  store: s3\n  settings:\n    endpoint: http://minio:9000\n    bucket: old\n    access_key: env:KEY\n    secret_key: hidden\n")
	l, err := Load(LoadOptions{File: file, Environ: []string{"KEY=shown", "SLUICE_TIER_SETTINGS_REGION=eu"}, Set: []string{"tier.settings.bucket=new"}})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"endpoint": "http://minio:9000", "bucket": "new", "access_key": "shown", "secret_key": "hidden", "region": "eu"}
	if have := l.Config.Tier.Settings.Values(); !maps.Equal(have, want) {
		t.Errorf("%v, want %v", have, want)
	}
	var out strings.Builder
	if err := l.Print(&out); err != nil {
		t.Fatal(err)
	}
	line := `settings: {access_key: "env:KEY", bucket: "new", endpoint: "http://minio:9000", region: "eu", secret_key: "******"}`
	if !strings.Contains(out.String(), line) || strings.Contains(out.String(), "hidden") {
		t.Errorf("%s\nwant %s", out.String(), line)
	}
	if at := l.Source("tier.settings.endpoint").String(); !strings.HasSuffix(at, "sluice.yaml:4:5") {
		t.Errorf("endpoint comes from %s", at)
	}
}

// What the store has against a setting is told with the line of it.
func TestTierFaults(t *testing.T) {
	check := func(string, map[string]string) []TierFault {
		return []TierFault{{Key: "dri", Err: errors.New("no setting is named dri")}, {Key: "dir", Err: errors.New("dir is missing")}}
	}
	for text, want := range map[string][]string{
		"tier:\n  store: local\n  settings: {dri: /x}\n":                             {":3:14: tier.settings.dri: no setting is named dri", ":2:10: tier.store: local: dir is missing"},
		"tier:\n  settings: {dir: /x}\n":                                             {"tier.store is off"},
		"tier:\n  store: local\n  settings: [a]\n":                                   {":3:13: tier.settings: want the store's own settings below it"},
		"tier:\n  store: local\n  settings: {dir: [a]}\n":                            {":3:19: tier.settings.dir: "},
		"journal: {durability: memory}\ntier: {store: local, settings: {dir: /x}}\n": {"journal.durability is memory"},
		"tier:\n  store: local\n  settings: {dir: env:NOT_THERE}\n":                  {"tier.settings.dir: the environment variable NOT_THERE is not set"},
		"tier:\n  store: tape\n":                                                     {"want off, local, s3 or hdfs"},
	} {
		file := write(t, "sluice.yaml", text)
		_, err := Load(LoadOptions{File: file, CheckTier: check})
		if err == nil {
			t.Errorf("%q is taken", text)
			continue
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q: %v\nwant %q", text, err, w)
			}
		}
	}
}
